"""Five models of handwritten digits from cheap to dear, as measured: their times, and what they say of images."""
