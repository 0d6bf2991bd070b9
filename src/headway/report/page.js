// Tooltips that follow the pointer. Without this script the browser shows the same titles by itself.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  for (const title of document.querySelectorAll("svg title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.parentNode.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  document.addEventListener("pointermove", (event) => {
    const target = event.target.closest && event.target.closest("[data-tip]");
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    const x = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 16;
    const y = below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 8 : below;
    tip.style.left = `${Math.max(8, x)}px`;
    tip.style.top = `${y}px`;
  });
})();
