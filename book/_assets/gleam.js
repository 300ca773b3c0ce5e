// On paper solutions are open.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.sd-dropdown, .tag_solution > details")) part.open = true;
});

// Excerpts of search results: the text of the page without its buttons, and none where pages are files, which a browser does not fetch.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  Search.htmlToText = (html, anchor) => {
    const article = new DOMParser().parseFromString(html, "text/html").querySelector("article");
    for (const part of article?.querySelectorAll(".headerlink, script, style, template") ?? []) part.remove();
    return ((anchor && article?.querySelector(anchor)) || article)?.textContent ?? "";
  };
});
