// Beam search step by step. data: see teaching.beams.piece_data.
const last = data.heard.length;  // a step for each frame, and one for the end
const spelled = text => text.replaceAll(" ", "␣") || "(nothing)";
const state = { frame: 1, way: "lm" };

// The letters over time, with a cursor.
const used = data.symbols.map((_, column) => column)
    .filter(column => data.heard.some(row => row.some(([symbol, percent]) => symbol === column && percent >= 2)));
const left = 52, cell = 14, wide = Math.max(4, Math.min(9, 760 / last)), top = 6;
const height = top + used.length * cell + 22, width = left + last * wide + 8;
const cursor = svg("rect", { y: top - 4, width: wide, height: used.length * cell + 6, fill: "none", stroke: "var(--red)",
    "stroke-width": 2 });
const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", style: "cursor: pointer",
    "aria-label": `Probability of each letter in each frame while ${data.said} is said` },
    svg("rect", { x: left, y: top, width: last * wide, height: used.length * cell, fill: "var(--faint)" }));
used.forEach((column, line) => picture.append(svg("text", { x: left - 6, y: top + (line + 0.78) * cell, "text-anchor": "end",
    "font-size": 12, fill: "currentColor" }, data.symbols[column])));
data.heard.forEach((row, frame) => row.forEach(([column, percent]) => {
    const line = used.indexOf(column);
    if (line >= 0) picture.append(svg("rect", { x: left + frame * wide, y: top + line * cell + 1, width: wide, height: cell - 2,
        fill: "var(--blue)", opacity: Math.max(0.15, percent / 100) }));
}));
for (let second = 0; second <= last * data.seconds; second += 0.5)
    picture.append(svg("text", { x: left + second / data.seconds * wide, y: height - 6, "font-size": 11, fill: "currentColor",
        "text-anchor": "middle" }, `${second} s`));
picture.append(cursor);
picture.addEventListener("click", event => {
    const box = picture.getBoundingClientRect();
    const x = (event.clientX - box.left) * width / box.width - left;
    go(Math.floor(x / wide) + 1);
});

const moment = frame => frame > last ? "the end" : `${frame} (${(frame * data.seconds).toFixed(2)} s)`;
const time = slider("frame", 1, last + 1, 1, 1, value => { state.frame = value; draw(); }, moment);
time.input.style.width = "min(24rem, 60vw)";
const go = frame => {
    state.frame = Math.max(1, Math.min(last + 1, frame));
    time.input.value = state.frame;
    time.node.querySelector("output").textContent = moment(state.frame);
    draw();
};
const leader = frame => JSON.stringify(data.ways[state.way][frame - 1].map(row => row[0]));
const change = step => {
    let frame = state.frame;
    do frame += step; while (frame > 1 && frame <= last && leader(frame) === leader(frame - step));
    go(frame);
};

const withLexicon = element("input", { type: "checkbox", checked: true, onchange: () => choose() });
const withModel = element("input", { type: "checkbox", checked: true, onchange: () => choose() });
const choose = () => {
    withModel.disabled = !withLexicon.checked;
    state.way = !withLexicon.checked ? "letters" : withModel.checked ? "lm" : "lexicon";
    draw();
};

const now = element("p", { class: "row", "aria-live": "polite" });
const table = element("tbody");
const ends = element("p");
const shown = value => value === null ? "–" : value.toFixed(1);

function draw() {
    cursor.setAttribute("x", left + (Math.min(state.frame, last) - 1) * wide);
    const atEnd = state.frame > last;
    const heard = atEnd ? [] : data.heard[state.frame - 1];
    now.replaceChildren(atEnd ? "The recording is over: the last word and the end of the utterance are counted."
        : "In this frame: " + heard.map(([column, percent]) => `${data.symbols[column]} ${percent}%`).join(", "));
    const rows = data.ways[state.way][state.frame - 1];
    table.replaceChildren(...rows.map((row, place) => {
        const [text, ctc, lm, words, total] = row;
        const behind = rows[0][4] - total;
        return element("tr", {},
            element("td", { style: `text-align: left; font-family: monospace; ${place ? "" : "font-weight: bold"}` }, spelled(data.texts[text])),
            element("td", {}, shown(ctc)), element("td", {}, shown(lm)), element("td", {}, shown(words)),
            element("td", {}, element("b", {}, shown(total))),
            element("td", { style: "min-width: 8rem; text-align: left" }, element("span", {
                style: `display: inline-block; height: 0.7rem; background: var(--orange); width: ${Math.min(6, behind * 0.4)}rem` }),
                place ? ` ${behind.toFixed(1)}` : " the best"));
    }));
    const names = { letters: "no lexicon", lexicon: "lexicon alone", lm: "lexicon and language model" };
    ends.replaceChildren(element("span", {}, "said: ", element("code", {}, spelled(data.said))),
        ...Object.entries(names).map(([way, name]) => {
            const text = data.texts[data.ways[way][last][0][0]];
            return element("span", { style: way === state.way ? "font-weight: bold" : null }, ` · ${name}: `,
                element("code", { style: `color: var(--${text.trim() === data.said ? "green" : "red"})` }, spelled(text)));
        }));
}

const head = ["hypothesis", "log p(CTC)", "α log p(LM)", "β · words", "score", "behind the best"];
root.append(
    element("div", { class: "row" },
        element("label", {}, withLexicon, "lexicon"), element("label", {}, withModel, "language model"), time.node,
        element("button", { type: "button", onclick: () => change(-1) }, "◀ change"),
        element("button", { type: "button", onclick: () => change(1) }, "change ▶"),
        element("button", { type: "button", onclick: () => go(last + 1) }, "end")),
    element("div", { class: "scroll" }, picture), now,
    element("div", { class: "scroll", style: "min-height: 11rem" }, element("table", {},
        element("thead", {}, element("tr", {}, ...head.map(name => element("th", { scope: "col" }, name)))), table)),
    ends);
change(1);
