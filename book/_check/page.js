// What check.py asks of a page; each function returns plain data.
const check = {
  ready: async () => {
    await window.MathJax?.startup?.promise;
    await document.fonts.ready;
    await new Promise(requestAnimationFrame);
  },

  links: () => [...document.querySelectorAll("a[href]")].map((link) => link.href),

  anchors: () => [...document.querySelectorAll("[id], a[name]")].map((part) => part.id || part.name),

  withoutAlt: () => [...document.images].filter((image) => !image.alt.trim()).map((image) => image.src.slice(-60)),

  // How far the page is wider than the window, and the parts that stick out.
  overflow: () => {
    const root = document.documentElement, excess = root.scrollWidth - root.clientWidth;
    if (excess <= 0) return null;
    const scrolls = (part) => part !== document.body && (getComputedStyle(part).overflowX !== "visible" || scrolls(part.parentElement));
    const wide = [...document.body.querySelectorAll("*")].filter((part) => part.getBoundingClientRect().right > root.clientWidth);
    const out = wide.filter((part) => !scrolls(part.parentElement) || getComputedStyle(part).position === "absolute");
    return { excess, parts: out.slice(-3).map((part) => part.outerHTML.slice(0, 80)) };
  },

  // Pictures of the page that are shown, with their width.
  pictures: () =>
    [...document.querySelectorAll("article img, main img")]
      .filter((image) => image.clientWidth && image.naturalWidth)
      .map((image) => ({ src: image.src, alt: image.alt, width: image.clientWidth })),

  // Smallest text of each SVG picture in pixels: <text>, and the outlines that matplotlib draws (100 units high).
  vectorTexts: async () => {
    const sizes = [];
    for (const image of document.querySelectorAll("article img, main img")) {
      if (!image.clientWidth || !/\.svg(\?|$)|^data:image\/svg/.test(image.src)) continue;
      const box = document.createElement("div");
      box.innerHTML = await (await fetch(image.src)).text();
      const picture = box.querySelector("svg");
      if (!picture.hasAttribute("viewBox")) picture.setAttribute("viewBox", `0 0 ${parseFloat(picture.getAttribute("width"))} ${parseFloat(picture.getAttribute("height"))}`);
      picture.setAttribute("width", image.clientWidth);
      picture.setAttribute("height", image.clientHeight);
      document.body.append(box);
      const scale = (part) => Math.hypot(part.getScreenCTM().c, part.getScreenCTM().d);
      const texts = [...picture.querySelectorAll("text, tspan")].map((part) => parseFloat(getComputedStyle(part).fontSize) * scale(part));
      const outlines = [...picture.querySelectorAll('g[id^="text_"] > g[transform*="scale"]')].map((part) => 100 * scale(part));
      box.remove();
      if (texts.length + outlines.length) sizes.push({ alt: image.alt, size: Math.min(...texts, ...outlines) });
    }
    return sizes;
  },

  sliders: () => [...document.querySelectorAll('input[type="range"]')],

  // What a reader sees beside slider number i.
  shown: (i) => {
    const box = check.sliders()[i].closest("figure") ?? check.sliders()[i].parentElement;
    const pictures = [...box.querySelectorAll("img, svg, canvas")].filter((part) => part.getClientRects().length);
    return pictures.map((part) => part.currentSrc ?? part.toDataURL?.() ?? part.outerHTML).join();
  },

  // Violations that axe calls serious or critical, in what we wrote: not in the frame of the page, nor in colours of code.
  axe: async (options) => {
    const parts = { include: [document.querySelector("article") ?? document.body], exclude: [["mjx-container"], ["pre span"]] };
    const found = await axe.run(parts, { resultTypes: ["violations"], preload: false, ...options });
    return found.violations
      .filter((fault) => ["serious", "critical"].includes(fault.impact))
      .map((fault) => `${fault.id} (${fault.nodes.length}): ${fault.nodes[0].html.slice(0, 100)}`);
  },

  // Number of results of the search page, once it has finished.
  results: async () => {
    for (let tries = 0; tries < 100; tries++) {
      const found = document.querySelectorAll("#search-results li").length;
      if (found || document.querySelector("#search-results .search-summary")?.innerText) return found;
      await new Promise((done) => setTimeout(done, 100));
    }
    return 0;
  },
};
0;
