// data: {recordings: [{name, text, rows, seconds, moments: [{step, epoch, text, loss, wer, path, levels}]}]},
// from teaching/learning.py: levels has a string for each row, a character for each frame, "#" (0.001 or less) to "_" (1).
const FIRST = 35, LEVELS = 60, ROW = 17;
const BLUE = [59, 130, 196], ORANGE = [208, 138, 29];
let recording = data.recordings[0], now = 0, timer = null;

const paint = (canvas, moment) => {
    const rows = recording.rows.length, frames = moment.path.length;
    canvas.width = frames;
    canvas.height = rows;
    const image = new ImageData(frames, rows);
    for (let row = 0; row < rows; row++) {
        const [red, green, blue] = row === rows - 1 ? ORANGE : BLUE;
        for (let frame = 0; frame < frames; frame++) {
            const strength = (moment.levels[row].charCodeAt(frame) - FIRST) / LEVELS;
            image.data.set([red, green, blue, Math.round(255 * strength)], 4 * (row * frames + frame));
        }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
};
const whole = moment => Math.abs(moment.epoch - Math.round(moment.epoch)) < 1e-6;
const when = moment => moment.step === 0 ? "before the training"
    : whole(moment) ? `epoch ${Math.round(moment.epoch)} (step ${moment.step})` : `step ${moment.step} of epoch 1`;

// --- What is on the page
const chooser = element("select", { "aria-label": "recording", onchange: () => choose(chooser.selectedIndex) },
    ...data.recordings.map(one => element("option", {}, one.name)));
const pace = slider("moment", 0, recording.moments.length - 1, 1, 0, value => { stop(); go(value); },
    value => when(recording.moments[value]));
pace.input.style.width = "16rem";
const play = element("button", { type: "button", onclick: () => (timer ? stop() : start()) }, "▶ play");
const names = element("div", { "aria-hidden": "true", style: "text-align: right; font-size: 0.8rem" });
const map = element("canvas", { role: "img", style: "width: 100%; display: block; image-rendering: pixelated; border: 1px solid var(--line)" });
const ticks = element("div", { style: "display: flex; justify-content: space-between; font-size: 0.8rem" });
const heard = element("strong", { "data-is": "text" });
const figures = element("span", { "data-is": "figures" });
const path = element("code", { "data-is": "path", style: "overflow-wrap: anywhere; background: none; color: inherit" });
const curve = element("div", { "data-is": "curve" });
const strip = element("div", { class: "row", style: "gap: 0.3rem" });

const drawCurve = () => {
    const wide = 560, high = 130, left = 40, moments = recording.moments;
    // A logarithmic axis: from 0.01, or above, to the power of ten above the largest loss.
    const powers = moments.map(moment => Math.log10(Math.max(moment.loss, 0.01)));
    const least = Math.floor(Math.min(...powers)), most = Math.ceil(Math.max(...powers));
    const x = index => left + 8 + index * (wide - left - 16) / Math.max(1, moments.length - 1);
    const y = power => 12 + (high - 24) * (most - power) / Math.max(1, most - least);
    const text = (at, content) => svg("text", { x: left - 6, y: at + 4, "text-anchor": "end", "font-size": 12, fill: "currentColor" }, content);
    const points = moments.map((moment, index) => `${x(index)},${y(powers[index])}`).join(" ");
    curve.replaceChildren(
        element("div", { style: "font-size: 0.85rem" }, "CTC loss of the right text in this recording, moment by moment (logarithmic)"),
        svg("svg", { viewBox: `0 0 ${wide} ${high}`, width: wide, role: "img", "aria-label": "The CTC loss of the right text at each moment" },
            ...[...Array(most - least + 1).keys()].flatMap(step => [
                svg("line", { x1: left, x2: wide, y1: y(least + step), y2: y(least + step), stroke: "var(--faint)" }),
                text(y(least + step), String(Number((10 ** (least + step)).toPrecision(1))))]),
            svg("polyline", { points, fill: "none", stroke: "var(--blue)", "stroke-width": 2 }),
            svg("circle", { cx: x(now), cy: y(powers[now]), r: 5, fill: "var(--red)" })));
};
const go = index => {
    now = index;
    const moment = recording.moments[now];
    pace.input.value = now;
    pace.node.querySelector("output").textContent = when(moment);
    paint(map, moment);
    map.setAttribute("aria-label", `Probability of each symbol over time, ${when(moment)}: it reads "${moment.text}"`);
    heard.textContent = moment.text.trim() ? `“${moment.text}”` : moment.text ? "(only spaces)" : "(nothing)";
    const certain = moment.loss < 0.05 ? ", almost certain" : "";
    figures.textContent = `loss ${moment.loss.toFixed(1)}${certain}` +
        (moment.wer === null ? "" : ` · word error rate on the whole dev set ${(100 * moment.wer).toFixed(0)}%`);
    path.textContent = moment.path.replaceAll(" ", "␣");
    [...strip.children].forEach((thumb, place) => { thumb.style.borderColor = place === now ? "var(--red)" : ""; });
    drawCurve();
};
const stop = () => { clearInterval(timer); timer = null; play.textContent = "▶ play"; };
const start = () => {
    if (now === recording.moments.length - 1) go(0);
    play.textContent = "❚❚ pause";
    timer = setInterval(() => {
        if (!root.isConnected || now >= recording.moments.length - 1) return stop();
        go(now + 1);
        if (now === recording.moments.length - 1) stop();
    }, data.pause ?? 700);
};
const choose = index => {
    stop();
    recording = data.recordings[index];
    pace.input.max = recording.moments.length - 1;
    names.replaceChildren(...recording.rows.map(name => element("div", { style: `height: ${ROW}px; line-height: ${ROW}px` }, name === "–" ? "blank" : name)));
    map.style.height = `${ROW * recording.rows.length + 2}px`;
    const length = recording.seconds * recording.moments[0].path.length;
    ticks.replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map(part => element("span", {}, `${(part * length).toFixed(1)} s`)));
    strip.replaceChildren(...recording.moments.map((moment, place) => {
        const small = element("canvas", { style: "width: 4.5rem; height: 3rem; display: block; image-rendering: pixelated" });
        paint(small, moment);
        const label = moment.step === 0 ? "start" : whole(moment) ? `epoch ${Math.round(moment.epoch)}` : `step ${moment.step}`;
        return element("button", { type: "button", style: "padding: 0.15rem; font-size: 0.75rem", "aria-label": when(moment),
            onclick: () => { stop(); go(place); } }, small, label);
    }));
    go(Math.min(now, recording.moments.length - 1));
};

root.append(
    element("div", { class: "row" }, data.recordings.length > 1 ? element("label", {}, "recording", chooser) : recording.name, pace.node, play),
    element("div", { style: "display: grid; grid-template-columns: 3.2rem 1fr; gap: 0 0.4rem" },
        names, map, element("span"), ticks),
    element("div", { class: "row" }, element("span", {}, "It reads ", heard), figures),
    element("div", { style: "font-size: 0.85rem" }, "likeliest symbol of each frame (– is the blank): ", path),
    curve, strip);
choose(0);
