// Which trials of a finished sweep Hyperband would have stopped. data: {names, curves: trials × epochs in %, minIter, eta}.
const { names, curves } = data;
const trials = curves.length, epochs = curves[0].length;
const final = curves.map(curve => Math.min(...curve));
const winner = final.indexOf(Math.min(...final));
let minIter = data.minIter, eta = data.eta;

// As asr_with_nemo.teaching.tuning.replay: one trial after the other, each compared with those before it.
const replay = () => {
    const brackets = [];
    for (let power = 0; power < 20; power++) {
        const bracket = Math.floor(minIter * eta ** power);
        if (bracket < epochs) brackets.push(bracket);
    }
    const got = [];
    curves.forEach((curve, trial) => {
        const stop = brackets.find(bracket => {
            const reached = curves.filter((_, other) => other === trial || (other < trial && got[other] >= bracket));
            const values = reached.map(other => other[bracket - 1]).sort((a, b) => a - b);
            return curve[bracket - 1] > values[Math.floor(values.length / eta)];
        });
        got.push(stop ?? epochs);
    });
    return { brackets, got };
};

const wide = 640, tall = 300, left = 50, right = 14, top = 12, below = 40;
const high = Math.max(...curves.flat()), low = Math.min(...final) - 4;
const x = epoch => left + (epoch - 1) * (wide - left - right) / (epochs - 1);
const y = value => top + (high - value) * (tall - top - below) / (high - low);
const words = (position, text, anchor = "middle") => svg("text", { ...position, "text-anchor": anchor, fill: "currentColor", "font-size": 13 }, text);
const picture = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, role: "img" });
const said = element("p", { "aria-live": "polite" });

const draw = () => {
    const { brackets, got } = replay();
    picture.replaceChildren();
    for (let epoch = 1; epoch <= epochs; epoch++) picture.append(words({ x: x(epoch), y: tall - below + 18 }, String(epoch)));
    picture.append(words({ x: (wide + left - right) / 2, y: tall - 4 }, "epoch"));
    for (let value = Math.ceil(low / 10) * 10; value <= high; value += 10)
        picture.append(svg("line", { x1: left, x2: wide - right, y1: y(value), y2: y(value), stroke: "var(--faint)" }),
            words({ x: left - 6, y: y(value) + 4 }, `${value}%`, "end"));
    for (const bracket of brackets)
        picture.append(svg("line", { x1: x(bracket), x2: x(bracket), y1: top, y2: tall - below, stroke: "var(--orange)", "stroke-dasharray": "4 4", "stroke-width": 1.5 }));
    const order = [...curves.keys()].sort((a, b) => (a === winner) - (b === winner) || got[a] - got[b]);
    for (const trial of order) {
        const stopped = got[trial] < epochs, isWinner = trial === winner;
        const color = isWinner ? "var(--red)" : stopped ? "var(--line)" : "var(--blue)";
        const points = curves[trial].slice(0, got[trial]);
        const path = points.map((value, place) => `${x(place + 1)},${y(value)}`).join(" ");
        picture.append(svg("polyline", { points: path, fill: "none", stroke: color, "stroke-width": isWinner ? 3 : 1.6 }));
        const end = [x(got[trial]), y(points.at(-1))];
        picture.append(stopped
            ? svg("path", { d: `M${end[0] - 4} ${end[1] - 4}l8 8m0 -8l-8 8`, stroke: isWinner ? "var(--red)" : "currentColor", "stroke-width": 1.5 })
            : svg("circle", { cx: end[0], cy: end[1], r: 3, fill: color }));
    }
    const spent = got.reduce((sum, number) => sum + number, 0);
    const kept = final.map((value, trial) => got[trial] === epochs ? value : Infinity);
    const best = kept.indexOf(Math.min(...kept));
    const fate = got[winner] < epochs
        ? `The best of all, ${names[winner]} with ${final[winner].toFixed(1)}%, is stopped after epoch ${got[winner]}; the best that is left is ${names[best]} with ${final[best].toFixed(1)}%.`
        : `The best of all, ${names[winner]} with ${final[winner].toFixed(1)}%, goes on to the end.`;
    said.textContent = `${spent} of ${trials * epochs} epochs trained, ${got.filter(number => number < epochs).length} of ${trials} trials stopped. ${fate}`;
    picture.setAttribute("aria-label", said.textContent);
};

const first = slider("min_iter", 1, epochs - 1, 1, minIter, value => { minIter = value; draw(); });
const share = slider("eta", 2, 4, 1, eta, value => { eta = value; draw(); }, value => `${value}: the best 1/${value} go on`);
root.append(element("div", { class: "row" }, first.node, share.node), picture, said);
draw();
