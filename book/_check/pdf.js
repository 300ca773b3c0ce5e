// What pdf.py does to the first page of the book: it becomes the whole book, for paper.
const paper = {
  // Put all pages, in the order of the table of contents, into this one.
  join: async () => {
    const first = Object.assign(document.createElement("a"), { href: location.href });
    const parts = [first, ...document.querySelectorAll("nav.bd-docs-nav p.caption, nav.bd-docs-nav a.reference.internal")];
    const addresses = parts.filter((part) => part.href).map((part) => part.href.split("#")[0]);
    const pages = await Promise.all(addresses.map(paper.load));
    const articles = new Map(pages.map((page, i) => [addresses[i], page.querySelector("article")]));
    for (const [address, article] of articles) paper.prepare(article, address, articles);
    document.querySelector(".bd-article-container").replaceChildren(paper.front(parts, articles), ...articles.values());
    await paper.loadMath(pages);
    await window.MathJax?.typesetPromise();
    await Promise.all([...document.images].map((image) => image.decode()));
    await document.fonts.ready;
  },

  load: async (address) => new DOMParser().parseFromString(await (await fetch(address)).text(), "text/html"),

  // A unique name for an anchor of a page, or for the page.
  anchor: (address, id) => new URL(address).pathname.slice(1).replace(".html", "").replaceAll("/", "-") + (id ? `--${id}` : ""),

  // Make what the page refers to independent of where it is.
  prepare: (article, address, articles) => {
    for (const part of article.querySelectorAll(".headerlink, .viewcode-link, script")) part.remove();
    for (const image of article.querySelectorAll("img")) {
      image.src = new URL(image.getAttribute("src"), address);
      image.loading = "eager";
    }
    for (const link of article.querySelectorAll("a[href]")) {
      const target = new URL(link.getAttribute("href"), address);
      const [page, id] = target.href.split("#");
      if (articles.has(page)) link.href = `#${encodeURIComponent(paper.anchor(page, decodeURIComponent(id ?? "")))}`;
      else if (target.origin === location.origin) link.removeAttribute("href"); // a file that is not in the PDF
    }
    for (const part of article.querySelectorAll("[id]")) part.id = paper.anchor(address, part.id);
    article.id = paper.anchor(address);
  },

  // The title and a table of contents; its page numbers come later.
  front: (parts, articles) => {
    const front = document.createElement("header");
    front.className = "gleam-front";
    const add = (tag, text, parent = front) => parent.appendChild(Object.assign(document.createElement(tag), { textContent: text }));
    document.title = add("div", articles.values().next().value.querySelector("h1").textContent.trim()).textContent;
    add("p", [...document.querySelectorAll(".component-author, .last-updated")].map((part) => part.textContent.trim()).join(". "));
    for (const part of parts) {
      const article = articles.get(part.href?.split("#")[0]);
      if (!article) add("strong", part.textContent);
      else {
        const line = add("a", "");
        line.href = `#${encodeURIComponent(article.id)}`;
        add("span", article.querySelector("h1").textContent.trim(), line);
        add("span", "", line).dataset.page = article.id;
      }
    }
    return front;
  },

  // Formulas need MathJax, which a page without formulas does not load.
  loadMath: async (pages) => {
    const page = pages.find((page) => page.querySelector('script[src*="mathjax"]'));
    if (!page || window.MathJax?.typesetPromise) return;
    window.MathJax = { startup: { typeset: false } };
    const script = Object.assign(document.createElement("script"), { src: page.querySelector('script[src*="mathjax"]').src });
    const loaded = new Promise((done) => script.addEventListener("load", done));
    document.head.append(script);
    await loaded;
    await MathJax.startup.promise;
  },

  // Shrink what is wider than the paper.
  fit: () => {
    for (const part of document.querySelectorAll("article table, article mjx-container[display], article pre")) {
      const room = part.parentElement.clientWidth;
      if (room && part.scrollWidth > room) part.style.zoom = room / part.scrollWidth;
    }
  },

  // Write page numbers, by anchor, into the table of contents.
  number: (numbers) => {
    for (const place of document.querySelectorAll("[data-page]")) place.textContent = numbers[place.dataset.page];
  },
};
0;
