"use strict";
(() => {
  const all = (what, where = document) => [...where.querySelectorAll(what)];
  const one = (what) => document.querySelector(what);
  const root = document.documentElement;

  // --- light and dark: as the system has it, until the reader chooses
  const theme = one("#theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const named = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; named(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", named);
  named();

  // --- any metric
  for (const select of all("select[data-metrics]")) {
    const show = () => all(`[data-of="${select.dataset.metrics}"]`).forEach((box) => { box.hidden = box.dataset.metric !== select.value; });
    select.closest(".tools").hidden = false;
    select.addEventListener("change", show);
    show();
  }

  // --- sorting: numbers by value, texts by letters, what is missing last
  const value = (row, place) => {
    const cell = row.cells[place];
    if ("v" in cell.dataset) return parseFloat(cell.dataset.v);
    const text = cell.textContent.trim();
    return cell.classList.contains("n") ? parseFloat(text.replace(/^[<\s]+/, "").replace("−", "-")) : text.toLowerCase();
  };
  const missing = (found) => found === "" || Number.isNaN(found);
  for (const head of all("th[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const table = head.closest("table"), body = table.tBodies[0];
      const first = head.dataset.sort, now = head.getAttribute("aria-sort");
      const way = now ? (now === "ascending" ? "descending" : "ascending") : first;
      all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", way);
      const sign = way === "ascending" ? 1 : -1, place = head.cellIndex;
      const rows = [...body.rows].map((row, index) => ({ row, index, at: value(row, place) }));
      rows.sort((a, b) => {
        if (missing(a.at) || missing(b.at)) return missing(a.at) - missing(b.at) || a.index - b.index;
        const order = typeof a.at === "number" && typeof b.at === "number" ? a.at - b.at : String(a.at).localeCompare(String(b.at));
        return sign * order || a.index - b.index;
      });
      rows.forEach(({ row }) => { row.classList.remove("first"); body.append(row); });
    });
  }

  // --- one task at a time, and the search
  const labels = new Map(all(".legend [data-m]").map((chip) => [chip.dataset.m, chip.textContent.trim().toLowerCase()]));
  const query = one("#q"), hits = one("#hits");
  const has = (text, words) => words.every((word) => text.includes(word));
  const of = (element) => (element.dataset.q || element.textContent).toLowerCase();

  const sift = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, searched = 0;
    const put = (element, hidden) => { element.hidden = hidden; searched += 1; shown += !hidden; };
    for (const table of all("table.scores")) {
      const rows = [...table.tBodies[0].rows], heads = [...table.tHead.rows[0].cells].slice(1);
      const byRow = rows.filter((row) => has(of(row.cells[0]), words));
      const byHead = heads.filter((head) => head.dataset.q !== undefined && has(of(head), words));
      const columns = words.length > 0 && !byRow.length && byHead.length > 0;
      rows.forEach((row) => {
        put(row, !columns && !byRow.includes(row));
        heads.forEach((head) => { row.cells[head.cellIndex].hidden = columns && !byHead.includes(head); });
      });
      heads.forEach((head) => { head.hidden = columns && !byHead.includes(head); });
    }
    for (const figure of all("figure[data-topic]")) {
      const select = one(`select[data-topics="${figure.dataset.part}"]`);
      const chosen = !select || !select.value || select.value === figure.dataset.topic;
      const keys = figure.dataset.k.split(" ");
      const told = has(figure.dataset.topic.toLowerCase(), words) || keys.some((key) => has(labels.get(key) || "", words));
      put(figure, words.length ? !told : !chosen);
    }
    all("[data-q]:not(th)").forEach((element) => put(element, !has(of(element), words)));
    all("details.model").forEach((box) => { box.hidden = all("details", box).every((inner) => inner.hidden); });
    hits.textContent = words.length ? (shown ? `${shown} of ${searched}` : "nothing found") : "";
  };
  for (const select of all("select[data-topics]")) {
    select.closest(".tools").hidden = false;
    if (select.options.length - 1 > Number(select.dataset.most)) select.selectedIndex = 1;
    select.addEventListener("change", sift);
  }
  one(".find").hidden = false;
  query.addEventListener("input", sift);
  query.addEventListener("keydown", (event) => { if (event.key === "Escape") { query.value = ""; sift(); } });
  sift();

  // --- the pointer: what is it, and where else is the same model
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  let pinned = "";
  const marks = new Map();
  all("svg [data-m]").forEach((mark) => {
    if (!marks.has(mark.dataset.m)) marks.set(mark.dataset.m, []);
    marks.get(mark.dataset.m).push(mark);
  });
  const light = (key) => {
    all("svg .on").forEach((mark) => mark.classList.remove("on"));
    document.body.classList.toggle("focus", Boolean(key));
    (marks.get(key) || []).forEach((mark) => mark.classList.add("on"));
  };
  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest ? event.target.closest("svg [data-m]") : null;
    tip.hidden = !mark;
    if (!pinned) light(mark ? mark.dataset.m : "");
    if (!mark) return;
    tip.textContent = mark.dataset.t;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, room))}px`;
    tip.style.top = `${event.clientY > 90 ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18}px`;
  });
  all(".legend button").forEach((chip) => {
    chip.disabled = false;
    const key = chip.dataset.m;
    chip.addEventListener("click", () => {
      pinned = pinned === key ? "" : key;
      light(pinned);
      all(".legend button").forEach((other) => other.setAttribute("aria-pressed", String(other.dataset.m === pinned)));
    });
    chip.addEventListener("pointerenter", () => { if (!pinned) light(key); });
    chip.addEventListener("pointerleave", () => { if (!pinned) light(""); });
    chip.addEventListener("focus", () => { if (!pinned) light(key); });
    chip.addEventListener("blur", () => { if (!pinned) light(""); });
  });

  // --- from a number to how it was made
  const open = () => {
    const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
    for (let box = target; box; box = box.parentElement) {
      if (box.tagName === "DETAILS") box.open = true;
      box.hidden = false;
    }
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  if (location.hash) open();
})();
