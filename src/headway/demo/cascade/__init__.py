"""The demo of a cascade: three models that read handwritten digits, through a day of traffic with a spike."""
