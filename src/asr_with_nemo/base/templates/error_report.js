(() => {
  const all = JSON.parse(document.getElementById("data").textContent), page = 20;
  const by = id => document.getElementById(id), list = by("list"), form = document.querySelector("form");
  const names = { S: "substitution", D: "deletion", I: "insertion" };
  let rows = [], first = 0, pair = null;
  const kindOf = ([said, heard]) => said === heard ? "" : !heard ? "D" : !said ? "I" : "S";
  const errors = one => one.counts[0] + one.counts[1] + one.counts[2];
  for (const one of all) {
    const text = side => one.pairs.map(step => step[side]).filter(Boolean).join(" ");
    one.found = `${text(0)}\n${text(1)}\n${one.file}\n${one.speaker}`.toLowerCase();
    one.sure = one.confidence.length ? Math.min(...one.confidence) : 2;
    one.rate = errors(one) / Math.max(1, one.words);
  }
  const value = (id, otherwise = "") => by(id) ? by(id).value : otherwise;
  const limit = () => Number(value("unsure", "0"));
  const element = (name, text, kind = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const steps = one => {
    const made = element("ol", "", "steps");
    made.dir = "auto";
    let place = 0;
    for (const step of one.pairs) {
      const kind = kindOf(step), item = element("li", "", kind), [said, heard] = step;
      const sure = heard ? one.confidence[place++] : undefined;
      item.append(element("span", said || "–", "said"), element("span", heard || "–", "heard"));
      item.append(element("b", kind));
      if (kind) item.append(element("span", names[kind], "hidden"));
      if (sure !== undefined) {
        item.title = `confidence ${sure}`;
        if (sure < limit()) {
          item.classList.add("unsure");
          item.append(element("span", `low confidence, ${sure}`, "hidden"));
        }
      }
      made.append(item);
    }
    if (!one.pairs.length) made.append(element("li", "(nothing said, nothing heard)"));
    return made;
  };
  const shown = one => {
    const item = element("li", "");
    item.tabIndex = -1;
    const [wrong, gone, added] = one.counts, rate = one.words ? `${(100 * one.rate).toFixed(0)}% of` : "no words;";
    const facts = [one.speaker, one.seconds === null ? "" : `${one.seconds} s`];
    facts.push(`${errors(one)} errors, ${rate} ${one.words} words: ${wrong} S, ${gone} D, ${added} I`);
    const head = element("p", `${one.number}. `, "faint");
    head.append(element("code", one.file), ` ${facts.filter(Boolean).join(" · ")}`);
    const player = element("audio", "");
    Object.assign(player, { controls: true, preload: "none", src: one.sound });
    player.setAttribute("aria-label", `play ${one.file}`);
    player.addEventListener("error", () => player.after(element("p", `can't be played: ${one.file}`, "faint")), true);
    item.append(head, player, steps(one));
    return item;
  };
  const show = () => {
    list.replaceChildren(...rows.slice(first, first + page).map(shown));
    const last = Math.min(first + page, rows.length);
    by("said").textContent = rows.length ? `${first + 1} to ${last} of ${rows.length}` : "none";
    by("back").disabled = first === 0;
    by("on").disabled = last === rows.length;
  };
  const kinds = {
    "": () => true, wrong: one => errors(one) > 0, correct: one => errors(one) === 0,
    S: one => one.counts[0], D: one => one.counts[1], I: one => one.counts[2],
    unsure: one => one.sure < limit(),
  };
  const orders = {
    errors: (a, b) => errors(b) - errors(a), rate: (a, b) => b.rate - a.rate, confidence: (a, b) => a.sure - b.sure,
    long: (a, b) => b.seconds - a.seconds, short: (a, b) => a.seconds - b.seconds, number: (a, b) => a.number - b.number,
  };
  const choose = () => {
    const wanted = value("text").toLowerCase(), speaker = value("speaker"), fits = kinds[value("kind")];
    rows = all.filter(one => fits(one) && (!speaker || one.speaker === speaker) && one.found.includes(wanted) &&
      (!pair || one.pairs.some(step => step[0] === pair[0] && step[1] === pair[1])));
    const order = orders[value("order")];
    rows.sort((a, b) => order(a, b) || a.number - b.number);
    by("pair").hidden = !pair;
    by("pair").textContent = pair ? `✕ ${pair[0] || "(nothing)"} → ${pair[1] || "(nothing)"}` : "";
    first = 0;
    show();
  };
  const goTo = () => by("utterances").scrollIntoView();
  form.addEventListener("input", choose);
  form.addEventListener("submit", event => event.preventDefault());
  by("back").addEventListener("click", () => { first = Math.max(0, first - page); show(); });
  by("on").addEventListener("click", () => { first += page; show(); goTo(); });
  by("pair").addEventListener("click", () => { pair = null; choose(); });
  document.querySelectorAll("[data-heard]").forEach(one => one.addEventListener("click", () => {
    pair = [one.dataset.said, one.dataset.heard];
    choose();
    goTo();
  }));
  document.querySelectorAll("[data-speaker]").forEach(one => one.addEventListener("click", () => {
    by("speaker").value = one.dataset.speaker;
    choose();
    goTo();
  }));
  document.addEventListener("play", event => document.querySelectorAll("audio").forEach(
    one => one !== event.target && one.pause()), true);
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
    const here = document.activeElement.closest("#list > li"), items = [...list.children];
    if (event.key === "/") by("text").focus();
    else if (event.key === "j") (here ? here.nextElementSibling : items[0])?.focus();
    else if (event.key === "k") (here ? here.previousElementSibling : items.at(-1))?.focus();
    else if (event.key === "p" && here) {
      const player = here.querySelector("audio");
      player.paused ? player.play().catch(() => {}) : player.pause();
    } else return;
    event.preventDefault();
  });
  choose();
})();
