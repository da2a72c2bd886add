// data.view is "collapse", with data.path, or "lattice", with data.symbols (the blank first), data.probabilities (T, V), data.text.
const BLANK = "–";
const tint = symbol => symbol === BLANK ? "transparent"
    : `hsl(${(symbol.codePointAt(0) * 67) % 360} 65% 50% / 0.3)`;
const named = text => text === "" ? "(nothing)" : text.replaceAll(" ", "␣");
const runsOf = path => {
    const runs = [];
    path.forEach((symbol, at) => {
        const last = runs[runs.length - 1];
        if (last && last.symbol === symbol) last.length++;
        else runs.push({ symbol, at, length: 1 });
    });
    return runs;
};
const collapse = path => runsOf(path).map(run => run.symbol).filter(symbol => symbol !== BLANK).join("");

const cells = (runs, frames) => {
    const grid = element("div", { style: `display:grid;grid-template-columns:repeat(${frames},1.9rem);gap:3px;min-height:1.9rem` });
    for (const { symbol, at, length } of runs) {
        grid.append(element("span", { style: `grid-column:${at + 1}/span ${length};grid-row:1;background:${tint(symbol)};`
            + "border:1px solid var(--line);border-radius:4px;text-align:center;line-height:1.8rem" }, symbol.replace(" ", "␣")));
    }
    return grid;
};

const showCollapse = () => {
    const input = element("input", { type: "text", value: data.path, maxlength: 40, size: 30, spellcheck: "false",
        autocomplete: "off", "aria-label": "CTC path", oninput: () => draw() });
    const rows = element("div", { class: "scroll" });
    const said = element("p", { "aria-live": "polite" });
    const examples = element("div", { class: "row" });
    const draw = () => {
        const path = [...input.value.toLowerCase()].map(symbol => "_-–".includes(symbol) ? BLANK : symbol);
        const runs = runsOf(path);
        const kept = runs.filter(run => run.symbol !== BLANK);
        rows.replaceChildren(
            element("div", {}, "The path, one symbol a frame"), cells(path.map((symbol, at) => ({ symbol, at, length: 1 })), path.length),
            element("div", {}, "1. Merge what repeats"), cells(runs, path.length),
            element("div", {}, "2. Drop the blanks"), cells(kept, path.length));
        const letters = path.filter(symbol => symbol !== BLANK);
        const wrong = runsOf(letters).map(run => run.symbol).join("");
        const right = collapse(path);
        said.replaceChildren(`${path.length} frames say: `, element("strong", { class: "result" }, named(right)), ". ",
            wrong === right ? "" : `(Blanks dropped first, then merged, it would be “${named(wrong)}”: the order matters.)`);
    };
    for (const example of ["gg__l_ee_nn_nn", "gl_eennnnnn___", "_g__l__e_n__n_", "______________"]) {
        examples.append(element("button", { type: "button", onclick: () => { input.value = example; draw(); } }, example));
    }
    root.append(element("div", { class: "row" }, element("label", {}, "Type a path, _ is the blank:", input)), examples, rows, said);
    draw();
};

const statesOf = text => [BLANK, ...[...text].flatMap(letter => [letter, BLANK])];
const stepsInto = (states, s) => {
    const over = s > 1 && states[s] !== BLANK && states[s] !== states[s - 2] ? 1 : 0;
    const from = Math.max(0, s - 1 - over);
    return Array.from({ length: s - from + 1 }, (_, place) => from + place);
};
// The forward recursion: alpha[t][s] sums all ways to state s at frame t.
const forward = (probabilities, symbols, text) => {
    const states = statesOf(text);
    const p = (t, s) => probabilities[t][symbols.indexOf(states[s])];
    const alpha = [states.map((_, s) => s < 2 ? p(0, s) : 0)];
    for (let t = 1; t < probabilities.length; t++) {
        alpha.push(states.map((_, s) => stepsInto(states, s).reduce((sum, before) => sum + alpha[t - 1][before], 0) * p(t, s)));
    }
    return { states, alpha, total: alpha[alpha.length - 1].slice(-2).reduce((one, other) => one + other, 0) };
};
const allPaths = (probabilities, symbols) => probabilities.reduce(
    (paths, row) => paths.flatMap(({ path, p }) => row.map((q, v) => ({ path: [...path, symbols[v]], p: p * q }))),
    [{ path: [], p: 1 }]);

const drawLattice = (probabilities, symbols, text) => {
    const { states, alpha } = forward(probabilities, symbols, text);
    const frames = alpha.length, high = states.length, x = t => 95 + 135 * t, y = s => 45 + 62 * s;
    const there = alpha.map((_, t) => states.map((_, s) => t === 0 && s < 2)), onward = alpha.map((_, t) => states.map((_, s) => t === frames - 1 && s >= high - 2));
    for (let t = 1; t < frames; t++) states.forEach((_, s) => { there[t][s] = stepsInto(states, s).some(before => there[t - 1][before]); });
    for (let t = frames - 1; t > 0; t--) states.forEach((_, s) => stepsInto(states, s).forEach(before => { onward[t - 1][before] ||= onward[t][s]; }));
    const useful = (t, s) => there[t][s] && onward[t][s];
    const picture = svg("svg", { viewBox: `0 0 ${x(frames - 1) + 60} ${y(high - 1) + 40}`, width: x(frames - 1) + 60, role: "img",
        "aria-label": `Lattice of ${named(text)} over ${frames} frames with its forward probabilities`, fill: "currentColor", "font-size": 14, "text-anchor": "middle" });
    for (let t = 1; t < frames; t++) states.forEach((_, s) => stepsInto(states, s).forEach(before => {
        const dx = x(t) - x(t - 1), dy = y(s) - y(before), cut = 25 / Math.hypot(dx, dy); // lines end at the circles
        picture.append(svg("line", { x1: x(t - 1) + cut * dx, y1: y(before) + cut * dy, x2: x(t) - cut * dx, y2: y(s) - cut * dy,
            "stroke-width": 1.5, stroke: s - before === 2 ? "var(--blue)" : "currentColor",
            opacity: useful(t - 1, before) && useful(t, s) ? 0.8 : 0.12 }));
    }));
    states.forEach((symbol, s) => {
        picture.append(svg("text", { x: 30, y: y(s) + 5, "font-size": 18 }, symbol));
        for (let t = 0; t < frames; t++) {
            const seen = useful(t, s), end = t === frames - 1 && s >= high - 2;
            const node = svg("g", { opacity: seen ? 1 : 0.2 },
                svg("circle", { cx: x(t), cy: y(s), r: 25, fill: end ? "var(--orange)" : "var(--blue)",
                    "fill-opacity": seen ? 0.12 + 0.6 * alpha[t][s] : 0, stroke: "currentColor" }));
            if (seen) node.append(svg("text", { class: "alpha", x: x(t), y: y(s) + 5 }, alpha[t][s].toFixed(3)));
            picture.append(node);
        }
    });
    for (let t = 0; t < frames; t++) picture.append(svg("text", { x: x(t), y: 14 }, `frame ${t + 1}`));
    return picture;
};

const showLattice = () => {
    const symbols = data.symbols, start = JSON.stringify(data.probabilities);
    let probabilities = JSON.parse(start);
    const sliders = probabilities.map(() => []);
    const shown = value => value.toFixed(2);
    // One probability of a frame moves, the others share the rest as they did before.
    const move = (t, v, value) => {
        const rest = 1 - probabilities[t][v];
        probabilities[t] = probabilities[t].map((p, other) => other === v ? value
            : (rest > 1e-9 ? p / rest : 1 / (symbols.length - 1)) * (1 - value));
        sync();
    };
    const sync = () => {
        sliders.forEach((row, t) => row.forEach(({ node, input }, v) => {
            input.value = probabilities[t][v];
            node.querySelector("output").textContent = shown(probabilities[t][v]);
        }));
        draw();
    };
    const board = element("div", { class: "row", style: "align-items:flex-start" });
    probabilities.forEach((row, t) => {
        const column = element("fieldset", { style: "border:1px solid var(--line);border-radius:4px" }, element("legend", {}, `frame ${t + 1}`));
        row.forEach((p, v) => {
            const made = slider(symbols[v], 0, 1, 0.01, p, value => move(t, v, value), shown);
            made.input.setAttribute("aria-label", `frame ${t + 1}, ${symbols[v] === BLANK ? "blank" : symbols[v]}`);
            made.input.style.width = "7rem";
            sliders[t].push(made);
            column.append(element("div", {}, made.node));
        });
        board.append(column);
    });
    const texts = [...new Set(allPaths(probabilities, symbols).map(({ path }) => collapse(path)))].sort();
    const choice = element("select", { "aria-label": "text", onchange: () => draw() },
        ...texts.map(text => element("option", { value: text, selected: text === data.text }, named(text))));
    const set = (name, values) => element("button", { type: "button", onclick: () => { probabilities = JSON.parse(JSON.stringify(values)); sync(); } }, name);
    const equal = probabilities.map(row => row.map(() => 1 / row.length));
    const bars = element("table"), verdict = element("p", { "aria-live": "polite" }), rivals = element("p"), grid = element("div");
    const draw = () => {
        const text = choice.value, { total } = forward(probabilities, symbols, text);
        const paths = allPaths(probabilities, symbols), giving = paths.filter(({ path }) => collapse(path) === text);
        grid.replaceChildren(drawLattice(probabilities, symbols, text));
        bars.replaceChildren(element("tr", {}, element("th", {}, "path"), element("th", {}, "probability"), element("th", {}, "share")),
            ...giving.map(({ path, p }) => element("tr", { class: "path" }, element("td", {}, path.join("")), element("td", {}, p.toFixed(3)),
                element("td", { style: "text-align:left;min-width:7rem" }, element("div", { style:
                    `height:0.7rem;background:var(--blue);width:${total ? 100 * p / total : 0}%` })))),
            element("tr", {}, element("th", {}, "sum"), element("th", { class: "sum" }, giving.reduce((sum, { p }) => sum + p, 0).toFixed(3)), element("th", {})));
        verdict.replaceChildren("Pr(", named(text), ") = ", element("strong", { class: "total" }, total.toFixed(3)),
            `, the sum of the two last nodes. CTC loss: ${total > 0 ? (-Math.log(total)).toFixed(3) : "infinite"}.`);
        const best = paths.reduce((one, other) => other.p > one.p ? other : one);
        const ranked = texts.map(other => ({ text: other, p: forward(probabilities, symbols, other).total })).sort((one, other) => other.p - one.p);
        rivals.replaceChildren(`Likeliest path: ${best.path.join("")} (${best.p.toFixed(3)}), which says “${named(collapse(best.path))}”. `,
            `Likeliest text: “${named(ranked[0].text)}” (${ranked[0].p.toFixed(3)}), before “${named(ranked[1].text)}” (${ranked[1].p.toFixed(3)}).`);
        rivals.dataset.differ = String(collapse(best.path) !== ranked[0].text);
    };
    root.append(board,
        element("div", { class: "row" }, element("label", {}, "Text:", choice), set("as at the start", JSON.parse(start)), set("all alike", equal),
            set("greedy is wrong", probabilities.map(() => [0.6, 0.4, 0]))),
        element("div", { class: "row", style: "align-items:flex-start" }, grid, bars), verdict, rivals);
    draw();
};

({ collapse: showCollapse, lattice: showLattice })[data.view]();
