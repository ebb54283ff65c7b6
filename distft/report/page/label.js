// Ranks, ratings and corrections of answers, by keyboard or touch; kept in the browser, saved as JSON lines. All texts of
// prompts and answers are set as text, never as HTML.
"use strict";
(() => {
  const { collection, format, criterion, tasks, ratings: [worst, best], items } =
    JSON.parse(document.getElementById("collection").textContent);
  const by = (id) => document.getElementById(id);
  const asks = (task) => tasks.includes(task);
  const letter = (place) => String.fromCharCode(97 + place);
  let at = 0; // the item that is shown
  let focus = 0; // the answer that ratings and corrections go to
  let tied = false; // the next letter shares the rank of the last
  let unsaved = false;
  let said = unsaid();

  // Of each item: `order`, groups of answers that are as good as each other, best first; `done` once Enter was pressed.
  function unsaid() {
    return items.map(({ completions }) => ({
      order: [], ratings: completions.map(() => null), corrections: completions.map(() => null), done: false,
    }));
  }

  const labeller = () => by("labeller").value.trim();
  const place = () => `distft/${collection}/${labeller()}`;
  function keep() {
    unsaved = true;
    try { localStorage.setItem(place(), JSON.stringify(said)); } catch { /* a browser that keeps nothing: Save does */ }
  }
  function begin() { // under a name: what that person has done before
    by("work").hidden = !labeller();
    document.querySelector("details").open = !labeller();
    try { said = JSON.parse(localStorage.getItem(place())) ?? unsaid(); } catch { said = unsaid(); }
    const open = said.findIndex(({ done }) => !done);
    show(open < 0 ? 0 : open);
  }

  function element(name, { text, className, ...rest } = {}, ...children) {
    const made = Object.assign(document.createElement(name), rest);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    made.append(...children);
    return made;
  }

  const rankOf = (answer) => said[at].order.findIndex((group) => group.includes(answer)) + 1;

  function prompt(content) {
    if (typeof content === "string") return [element("pre", { text: content, className: "prompt" })];
    return content.map((turn) => element("div", { className: "turn" },
      element("b", { text: turn.role, className: "about" }), element("pre", { text: turn.content, className: "prompt" })));
  }

  function answer(text, number, ended) {
    const rank = rankOf(number), mine = said[at];
    const head = element("figcaption", {}, element("b", { text: letter(number) }));
    if (asks("rank")) {
      head.append(element("button", { type: "button", className: "rank", text: rank ? `rank ${rank}` : "rank it",
        onclick: () => rankIt(number) }));
    }
    if (asks("rate")) {
      for (let value = worst; value <= best; value += 1) {
        head.append(element("button", { type: "button", text: value, ariaPressed: mine.ratings[number] === value,
          onclick: () => rate(number, value) }));
      }
    }
    const card = element("figure", { className: number === focus ? "answer focus" : "answer" }, head);
    if (!asks("correct")) card.append(element("pre", { text }));
    else {
      const box = element("textarea", { value: mine.corrections[number] ?? text, ariaLabel: `answer ${letter(number)}`,
        onfocus: () => move(number), oninput: () => correct(number, box.value, text) });
      box.rows = Math.min(16, 2 + Math.max(text.split("\n").length, Math.ceil(text.length / 70)));
      card.append(box);
    }
    if (ended === false) card.append(element("p", { className: "about", text: "cut off here: it was not at its end" }));
    return card;
  }

  function show(next) {
    if (next !== at) { focus = 0; tied = false; }
    at = next;
    const { prompt: content, completions, ended } = items[at];
    by("item").replaceChildren(
      element("h2", { text: `Prompt ${at + 1} of ${items.length}${said[at].done ? ", done" : ""}` }), ...prompt(content),
      element("div", { className: "answers" }, ...completions.map((text, number) => answer(text, number, ended[number]))));
    const count = said.filter(({ done }) => done).length;
    by("progress").textContent = `${count} of ${items.length} done${count === items.length ? ": press Save" : ""}`;
    by("missing").textContent = "";
    if (by("tie")) by("tie").ariaPressed = tied;
  }

  function changed() { said[at].done = false; keep(); show(at); }

  function rankIt(number) {
    const { order } = said[at];
    if (rankOf(number)) return;
    if (tied && order.length) order.at(-1).push(number);
    else order.push([number]);
    tied = false;
    focus = number;
    changed();
  }
  function takeBack() {
    const { order } = said[at];
    if (!order.length) return;
    order.at(-1).pop();
    if (!order.at(-1).length) order.pop();
    changed();
  }
  function tie() { tied = !tied && said[at].order.length > 0; show(at); }
  function rate(number, value) {
    said[at].ratings[number] = value;
    focus = Math.min(number + 1, items[at].completions.length - 1);
    changed();
  }
  function correct(number, text, before) {
    said[at].corrections[number] = text === before ? null : text;
    said[at].done = false;
    keep();
  }
  function move(number) {
    focus = Math.max(0, Math.min(number, items[at].completions.length - 1));
    document.querySelectorAll(".answer").forEach((card, place) => card.classList.toggle("focus", place === focus));
  }

  function missing() {
    const { order, ratings } = said[at], all = items[at].completions.map((_, number) => number);
    const unranked = asks("rank") ? all.filter((number) => !rankOf(number)) : [];
    const unrated = asks("rate") ? all.filter((number) => ratings[number] === null) : [];
    return [["no rank yet", unranked], ["no rating yet", unrated]].filter(([, found]) => found.length)
      .map(([what, found]) => `${what}: ${found.map(letter).join(", ")}`).join("; ");
  }
  function done() {
    const lacks = missing();
    if (lacks) { by("missing").textContent = lacks; return; }
    said[at].done = true;
    keep();
    const open = said.findIndex((one, place) => !one.done && place > at);
    const next = open < 0 ? said.findIndex((one) => !one.done) : open;
    show(next < 0 ? at : next);
  }

  function lines() {
    return said.flatMap(({ order, ratings, corrections, done: whole }, item) => {
      if (!whole) return [];
      const { prompt: content, completions } = items[item];
      const ranks = completions.map((_, number) => order.findIndex((group) => group.includes(number)) + 1);
      return [JSON.stringify({
        format, collection, labeller: labeller(), item, criterion, prompt: content, completions,
        ranks: asks("rank") ? ranks : null, ratings: asks("rate") ? ratings : null,
        corrections: asks("correct") ? corrections : null,
      })];
    });
  }
  function save() {
    const found = lines();
    if (!found.length) { by("missing").textContent = "nothing is done yet: Enter says that a prompt is"; return; }
    const url = URL.createObjectURL(new Blob([found.map((line) => `${line}\n`).join("")], { type: "application/jsonl" }));
    element("a", { href: url, download: `labels-${labeller().replace(/[^\p{L}\p{N}-]+/gu, "_")}.jsonl` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    unsaved = false;
  }

  const keys = { ArrowLeft: () => show(Math.max(0, at - 1)), ArrowRight: () => show(Math.min(items.length - 1, at + 1)),
    ArrowUp: () => move(focus - 1), ArrowDown: () => move(focus + 1), Enter: done,
    ...(asks("rank") ? { t: tie, u: takeBack, Backspace: takeBack } : {}),
    ...(asks("correct") ? { x: () => document.querySelectorAll(".answer textarea")[focus].focus() } : {}) };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (by("work").hidden || event.target.matches("textarea, input")) {
      const left = event.key === "Escape" || (event.key === "Enter" && event.target.matches("input"));
      if (left && labeller()) event.target.blur();
      return;
    }
    if (event.key === "Enter" && event.target.matches("button, summary")) return; // it presses that
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const number = key.length === 1 ? key.charCodeAt(0) - 97 : -1, value = Number.parseInt(key, 10);
    let act = keys[key];
    if (asks("rank") && number >= 0 && number < items[at].completions.length) act = () => rankIt(number);
    if (asks("rate") && value >= worst && value <= best) act = () => rate(focus, value);
    if (!act) return;
    event.preventDefault();
    act();
  });
  for (const [id, act] of Object.entries({ save, done, tie, undo: takeBack, back: keys.ArrowLeft })) {
    by(id)?.addEventListener("click", (event) => { act(); event.currentTarget.blur(); });
  }
  by("labeller").addEventListener("change", begin);
  addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
  begin();
  by("labeller").focus();
})();
