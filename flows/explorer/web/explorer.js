"use strict";
// The page's state is the address: what stands behind its # draws the same picture again.
// A backend draws: a server's (below), or in a page without one, onnx.js. Only one picture is asked for at a time, and
// always the newest. What is drawn quickly is shown even when the hand has moved on, so that one sees what one does; a
// whole picture that takes longer is given up.

const $ = id => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const PAGE = Math.random().toString(36).slice(2);
const MAX_SEED = 2 ** 31 - 1;
const METHODS = {sefa: "SeFa", pca: "GANSpace"};

const server = {
  async about(checkpoint) {
    const answer = await fetch("about?" + new URLSearchParams(checkpoint ? {checkpoint} : {}));
    return answer.json();
  },
  async shares(checkpoint) {
    const answer = await this.get("shares?" + new URLSearchParams({checkpoint}));
    return answer.json();
  },
  async get(path, signal) {
    const answer = await fetch(path, {signal});
    if (answer.status === 204) return null;
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `status ${answer.status}`);
    return answer;
  },
  async picture(view, {size = "full", aside = "", checkpoint = "", signal} = {}) {
    const more = {page: PAGE, size, ...(aside && {aside}), ...(checkpoint && {checkpoint})};
    const answer = await this.get(`picture?${view}&${new URLSearchParams(more)}`, signal);
    return answer && createImageBitmap(await answer.blob());
  },
  async frame(pins, at, {checkpoint, signal}) {
    const query = new URLSearchParams([["page", PAGE], ["at", at], ["checkpoint", checkpoint], ...pins.map(pin => ["pin", pin])]);
    const answer = await this.get(`frame?${query}`, signal);
    return answer && createImageBitmap(await answer.blob());
  },
  async nearest(view, {checkpoint, signal}) {
    const answer = await this.get(`nearest?${view}&${new URLSearchParams({page: PAGE, checkpoint})}`, signal);
    return answer && answer.json();
  },
  crop: index => `crop/${index}`,
  async download(view, {checkpoint}) {
    const answer = await this.get(`download?${view}&${new URLSearchParams({checkpoint})}`);
    return answer && answer.blob();
  },
  async film(pins, {checkpoint}) {
    const query = new URLSearchParams([["seconds", 2 * pins.length], ["checkpoint", checkpoint], ...pins.map(pin => ["pin", pin])]);
    const answer = await this.get(`film?${query}`);
    return answer && answer.blob();
  },
};
let backend = server;
let about = null;
let state = null;

// ---------------------------------------------------------------------------------------------- state and address

const fresh = () => ({seed: 0, psi: about.psi, cutoff: about.cutoff, moves: {}, noise: [], renoise: [], mixed: "",
  boundary: 8, checkpoint: about.checkpoint, pins: []});

// What a picture is made of, as View.of_query reads it.
function viewOf(at) {
  const said = [["seed", at.seed], ["psi", at.psi]];
  if (at.cutoff !== about.cutoff) said.push(["cutoff", at.cutoff]);
  const moves = Object.entries(at.moves).filter(([, strength]) => strength);
  if (moves.length) said.push(["move", moves.map(([name, strength]) => `${name}:${strength}`).join(",")]);
  if (at.noise.some(strength => strength !== 1)) said.push(["noise", at.noise.join(",")]);
  if (at.renoise.some(seed => seed !== null)) said.push(["renoise", at.renoise.map(seed => seed ?? "").join(",")]);
  if (at.mixed) said.push(["with", at.mixed], ["boundary", at.boundary]);
  return new URLSearchParams(said).toString();
}

function address() {
  const query = new URLSearchParams(viewOf(state));
  if (state.checkpoint !== about.newest) query.set("checkpoint", state.checkpoint);
  for (const pin of state.pins) query.append("pin", pin);
  return "#" + query;
}

const clamp = (value, low, high, otherwise) => Number.isFinite(value) ? Math.min(high, Math.max(low, value)) : otherwise;

function readView(query, at = fresh()) {
  const said = new URLSearchParams(query);
  const number = (name, low, high, otherwise) => said.has(name) ? clamp(Number(said.get(name)), low, high, otherwise) : otherwise;
  at.seed = Math.trunc(number("seed", 0, MAX_SEED, at.seed));
  at.psi = number("psi", -2, 2, at.psi);
  at.cutoff = Math.trunc(number("cutoff", 0, about.layers.length, at.cutoff));
  at.boundary = Math.trunc(number("boundary", 0, about.layers.length, Math.min(at.boundary, about.layers.length)));
  at.mixed = said.get("with") || "";
  for (const part of (said.get("move") || "").split(",")) {
    const [name, strength] = part.split(":");
    if (about.directions.some(one => one.name === name)) at.moves[name] = clamp(Number(strength), -10, 10, 0);
  }
  const layers = about.layers.map((_, index) => index);
  const noise = (said.get("noise") || "").split(","), renoise = (said.get("renoise") || "").split(",");
  at.noise = layers.map(index => noise[index] ? clamp(Number(noise[index]), 0, 4, 1) : 1);
  at.renoise = layers.map(index => renoise[index] ? Math.trunc(clamp(Number(renoise[index]), 0, MAX_SEED, 0)) : null);
  return at;
}

function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  state = readView(location.hash.slice(1));
  state.pins = said.getAll("pin").slice(0, 24);
  const wanted = said.get("checkpoint");
  state.checkpoint = about.checkpoints.includes(wanted) ? wanted : about.newest;
}

// ---------------------------------------------------------------------------------------------- drawing

let turn = 0;
let stopper = new AbortController();
let isPumping = false;
let writeAddress = 0;

function changed() {
  turn += 1;
  stopper.abort();
  stopper = new AbortController();
  stopWalk();
  clearTimeout(writeAddress);
  writeAddress = setTimeout(() => history.replaceState(null, "", address()), 150);
  sync();
  pump();
}

const rest = ms => new Promise(resolve => setTimeout(resolve, ms));

async function pump() {
  if (isPumping) return;
  isPumping = true;
  while (true) {
    const own = turn;
    const {signal} = stopper;
    const now = {view: viewOf(state), checkpoint: state.checkpoint};
    try {
      if (about.preview_px) {
        const small = await timed(() => backend.picture(now.view, {size: "preview", checkpoint: now.checkpoint}), "preview");
        if (own !== turn) continue;
        if (small) await rest(160);
        if (own !== turn) continue;
      }
      const given = {checkpoint: now.checkpoint, ...(about.preview_px && {signal})};
      const whole = await timed(() => backend.picture(now.view, given), "");
      if (own !== turn) continue;
      if (!whole) { await rest(60); continue; }
      say(describe());
    } catch (error) {
      if (own !== turn || error.name === "AbortError") continue;
      status(error instanceof TypeError ? "The server does not answer: is likeness explore still running?" : error.message, true);
      break;
    }
    break;
  }
  isPumping = false;
  aside();
}

async function timed(draw, kind) {
  const begun = performance.now();
  const image = await draw();
  if (!image) return false;
  status(`${image.width} px${kind && " " + kind}, ${Math.round(performance.now() - begun)} ms`);
  show(image);
  learnShares();
  return true;
}

// What directions explain takes seconds to find, and is asked for once something is to be seen.
async function learnShares() {
  const of = about;
  if (of.shares) return;
  of.shares = {};
  of.shares = await backend.shares(of.checkpoint).catch(() => ({}));
  if (of === about) sync();
}

function show(image) {
  const canvas = $("picture");
  if (canvas.width !== image.width) canvas.width = canvas.height = image.width;
  canvas.getContext("2d").drawImage(image, 0, 0);
  image.close?.();
}

// Times change with every picture, and are not read aloud; what is wrong is.
function status(text, isWrong = false) {
  $("status").textContent = text;
  if (isWrong) $("said").textContent = text;
  $("status").classList.toggle("wrong", isWrong);
}

function describe() {
  const moves = Object.entries(state.moves).filter(([, strength]) => strength).map(([name, strength]) => `${name} ${strength}`);
  return [`A generated face: seed ${state.seed}, psi ${state.psi}`, ...moves, ...(state.mixed ? ["mixed with a pinned picture"] : [])].join(", ");
}

function say(text) {
  $("picture").setAttribute("aria-label", text);
  $("said").textContent = text;
}

// Small pictures beside the big one, one after another, when the hand rests.
const thumbs = new Map();
let isAside = false;

async function aside() {
  if (isAside) return;
  isAside = true;
  const own = turn;
  const {signal} = stopper;
  const isOld = () => own !== turn || isPumping;
  const size = about.resolution <= 256 ? "full" : "preview";
  try {
    for (const pin of state.pins) {
      if (isOld()) return;
      await thumb(`pin ${state.checkpoint} ${pin}`, () => backend.picture(pin, {size, aside: "pin", checkpoint: state.checkpoint, signal}));
    }
    const view = viewOf(state);
    for (const checkpoint of shownCheckpoints()) {
      if (isOld()) return;
      await thumb(`checkpoint ${checkpoint}`, () => backend.picture(view, {size, aside: "checkpoint", checkpoint, signal}), view);
    }
    if (!isOld() && $("nearest-on").checked && nearestOf !== view + state.checkpoint) {
      $("nearest-why").textContent = "Looking through the training crops…";
      const said = await backend.nearest(view, {checkpoint: state.checkpoint, signal});
      if (said) showNearest(said, view + state.checkpoint);
    }
  } catch (error) {
    if (error.name !== "AbortError") status(error.message, true);
  } finally {
    isAside = false;
    if (own !== turn && !isPumping) aside();
  }
}

async function thumb(key, draw, of = "") {
  const kept = thumbs.get(key);
  if (kept && kept.of === of) return;
  const image = await draw();
  if (!image) return;
  const canvas = make("canvas", {width: image.width, height: image.height});
  canvas.getContext("2d").drawImage(image, 0, 0);
  image.close?.();
  thumbs.set(key, {of, url: canvas.toDataURL()});
  for (const img of document.querySelectorAll("img[data-thumb]")) if (img.dataset.thumb === key) img.src = thumbs.get(key).url;
}

const NOTHING = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";
function picture(key, alt) {
  const img = make("img", {alt, src: thumbs.get(key)?.url || NOTHING});
  img.dataset.thumb = key;
  return img;
}

// ---------------------------------------------------------------------------------------------- sliders

function slider({name, small = "", low, high, step, start, get, set, label, show = value => value.toFixed(2)}) {
  const input = make("input", {type: "range", min: low, max: high, step});
  const output = make("output");
  const text = make("span", {className: "name"}, name);
  const note = make("small", {textContent: small});
  if (small) text.append(" ", note);
  input.setAttribute("aria-label", label || name);
  const row = make("label", {className: "slider"}, text, input, output);
  input.addEventListener("input", () => { set(Number(input.value)); changed(); });
  const restart = () => { set(start()); changed(); };
  input.addEventListener("dblclick", restart);
  input.addEventListener("keydown", event => { if (event.key === "Delete" || event.key === "Backspace") restart(); });
  row.sync = () => {
    const value = get();
    if (Number(input.value) !== value) input.value = value;
    output.textContent = show(value);
    if (typeof small === "function") note.textContent = small();
    input.setAttribute("aria-valuetext", show(value));
    row.classList.toggle("moved", value !== start());
    const at = x => `${(x - low) / (high - low) * 100}%`;
    const [from, to] = [Math.min(value, start()), Math.max(value, start())];
    input.style.setProperty("--track", `linear-gradient(to right, var(--line) ${at(from)}, var(--accent) ${at(from)} ${at(to)}, var(--line) ${at(to)})`);
  };
  return row;
}

const signed = value => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(1);
let block = "all";

function build() {
  $("run").textContent = about.run;
  const learned = about.dataset ? `learned from ${about.dataset}` : "an imported network";
  $("about").textContent = `${about.resolution} px, ${about.layers.length} layers, ${learned}`;
  document.title = `likeness ${about.run}`;
  $("truncation").replaceChildren(
    slider({name: "psi", label: "Truncation psi: 0 is the mean face, 1 is none", low: -1, high: 1.5, step: 0.05, start: () => about.psi, get: () => state.psi, set: value => { state.psi = value; }}),
    slider({name: "cutoff", label: "First layers that truncation acts on", low: 0, high: about.layers.length, step: 1, start: () => about.cutoff, get: () => state.cutoff, set: value => { state.cutoff = value; }, show: String}),
  );
  $("blocks").replaceChildren(...about.blocks.map(one => {
    const input = make("input", {type: "radio", name: "block", value: one.name, checked: one.name === block});
    input.addEventListener("change", () => { block = one.name; buildDirections(); sync(); });
    const label = make("label", {}, input, one.name[0].toUpperCase() + one.name.slice(1), make("b"), make("span", {textContent: one.px}));
    label.dataset.block = one.name;
    return label;
  }));
  buildDirections();
  buildMixing();
  $("noise-section").hidden = !about.has_noise;
  if (about.has_noise) buildNoise();
  $("checkpoints-section").hidden = about.checkpoints.length < 2;
  $("nearest-section").hidden = !about.has_nearest;
  $("film").hidden = !about.has_film;
}

function buildDirections() {
  const rows = [];
  for (const [method, title] of Object.entries(METHODS)) {
    const own = about.directions.filter(one => one.method === method && one.block === block);
    if (own.length) rows.push(make("h3", {textContent: method === "sefa" ? `${title}: what styles change most` : `${title}: how w varies most`}));
    for (const one of own) {
      rows.push(slider({
        name: String(one.index + 1), small: () => one.name in (about.shares || {}) ? `${(100 * about.shares[one.name]).toFixed(0)}%` : "", label: `${title} direction ${one.index + 1}, ${block} layers`,
        low: -3, high: 3, step: 0.1, start: () => 0, get: () => state.moves[one.name] || 0,
        set: value => { if (value) state.moves[one.name] = value; else delete state.moves[one.name]; }, show: signed,
      }));
    }
  }
  $("directions").replaceChildren(...rows);
}

function buildMixing() {
  const range = make("input", {type: "range", min: 0, max: about.layers.length, step: 1});
  range.setAttribute("aria-label", "Boundary: layers from here on take the pinned picture's styles");
  range.addEventListener("input", () => { state.boundary = Number(range.value); changed(); });
  const select = make("select", {id: "mixed"});
  select.addEventListener("change", () => { state.mixed = select.value; changed(); });
  const cells = make("div", {className: "cells"}, ...about.layers.map(() => make("i")));
  const sides = [...new Set(about.layers.map(layer => layer.px))];
  const box = $("mixing");
  box.replaceChildren(
    make("div", {className: "mixrow"}, make("label", {htmlFor: "mixed", className: "faint", textContent: "Finer layers from"}), select),
    make("div", {className: "ruler"}, cells, range),
    make("div", {className: "px", ariaHidden: "true"}, ...sides.map(px => make("span", {textContent: px}))),
    make("p", {className: "faint", id: "mixwords"}),
  );
  box.sync = () => {
    const pins = state.mixed && !state.pins.includes(state.mixed) ? [state.mixed, ...state.pins] : state.pins;
    const options = [make("option", {value: "", textContent: "no other picture"}),
      ...pins.map(pin => make("option", {value: pin, textContent: pinName(pin, state.pins.indexOf(pin))}))];
    select.replaceChildren(...options);
    select.value = state.mixed;
    select.disabled = range.disabled = !pins.length;
    range.disabled = !state.mixed;
    range.value = state.boundary;
    range.setAttribute("aria-valuetext", `${state.boundary} of ${about.layers.length} layers are this picture's`);
    [...cells.children].forEach((cell, index) => cell.classList.toggle("other", Boolean(state.mixed) && index >= state.boundary));
    const num = about.layers.length, at = state.boundary;
    $("mixwords").textContent = !pins.length ? "Pin a picture to mix it into this one."
      : !state.mixed ? "Choose a pinned picture, then drag the boundary."
      : !at ? "All layers have the pinned picture's styles."
      : at === num ? "All layers have this picture's styles."
      : `Layers 1 to ${at} have this picture's styles, ${at + 1} to ${num} the pinned one's, from ${about.layers[at].px} px on.`;
  };
}

function buildNoise() {
  const layers = about.layers.map((layer, index) => {
    const strength = slider({
      name: `${layer.px} px`, small: index % 2 ? "b" : "a", label: `Noise strength, layer ${index + 1}, ${layer.px} px`, low: 0, high: 3, step: 0.05, start: () => 1,
      get: () => state.noise[index], set: value => { state.noise[index] = value; },
    });
    const again = make("button", {type: "button", textContent: "↻", title: "Other noise on this layer"});
    again.setAttribute("aria-label", `Reseed the noise of layer ${index + 1}`);
    again.addEventListener("click", () => { state.renoise[index] = anySeed(); changed(); });
    const row = make("div", {className: "noiserow"}, strength, again);
    row.sync = () => { strength.sync(); again.classList.toggle("other", state.renoise[index] !== null); };
    return row;
  });
  const all = slider({name: "all", label: "Noise strength of all layers", low: 0, high: 3, step: 0.05, start: () => 1,
    get: () => state.noise.every(value => value === state.noise[0]) ? state.noise[0] : 1,
    set: value => { state.noise = state.noise.map(() => value); }});
  $("noise").replaceChildren(all, ...layers);
}

const pinName = (pin, index) => `${index < 0 ? "not pinned" : `pin ${index + 1}`}: seed ${new URLSearchParams(pin).get("seed")}`;

function sync() {
  if (document.activeElement !== $("seed")) $("seed").value = state.seed;
  for (const row of document.querySelectorAll("#truncation > *, #directions > *, #noise > *, #mixing")) row.sync?.();
  for (const label of $("blocks").children) {
    const num = Object.entries(state.moves).filter(([name, strength]) => strength && name.split(".")[1] === label.dataset.block).length;
    label.querySelector("b").textContent = num || "";
  }
  $("still").disabled = !Object.values(state.moves).some(Boolean);
  $("play").disabled = $("film").disabled = state.pins.length < 2;
  $("nopins").hidden = state.pins.length > 0;
  syncPins();
  syncCheckpoints();
}

let pinsShown = "";
function syncPins() {
  const now = JSON.stringify([state.pins, state.checkpoint, state.mixed, viewOf(state)]);
  if (now === pinsShown) return;
  pinsShown = now;
  const focused = document.activeElement?.dataset?.focus;
  $("pins").replaceChildren(...state.pins.map((pin, index) => {
    const name = pinName(pin, index);
    const go = make("button", {type: "button", className: "thumb", title: `Go to ${name}`}, picture(`pin ${state.checkpoint} ${pin}`, `Go to ${name}`));
    go.setAttribute("aria-current", String(pin === viewOf(state)));
    go.addEventListener("click", () => {
      const {pins, checkpoint} = state;
      state = Object.assign(readView(pin), {pins, checkpoint});
      changed();
    });
    const mix = make("button", {type: "button", textContent: "Mix"});
    mix.setAttribute("aria-pressed", String(state.mixed === pin));
    mix.setAttribute("aria-label", `Mix with ${name}`);
    mix.addEventListener("click", () => { state.mixed = state.mixed === pin ? "" : pin; changed(); });
    mix.disabled = pin.includes("with=");
    if (mix.disabled) mix.title = "It is mixed of two already";
    const drop = make("button", {type: "button", textContent: "×"});
    drop.setAttribute("aria-label", `Unpin ${name}`);
    drop.addEventListener("click", () => { state.pins.splice(index, 1); changed(); });
    [go, mix, drop].forEach((button, part) => { button.dataset.focus = `${index} ${part}`; });
    return make("li", {}, go, make("div", {className: "under"}, mix, drop));
  }));
  if (focused) document.querySelector(`[data-focus="${focused}"]`)?.focus();
}

// At most eight, evenly over the training, the newest among them.
function shownCheckpoints() {
  const all = about.checkpoints, num = Math.min(8, all.length);
  if (all.length < 2) return [];
  return [...new Set([...Array(num).keys()].map(index => all[Math.round(index * (all.length - 1) / (num - 1))]))];
}

function syncCheckpoints() {
  const list = $("checkpoints");
  if (!list.children.length) {
    list.replaceChildren(...shownCheckpoints().map(checkpoint => {
      const kimg = `${Math.round(Number(checkpoint) / 1000).toLocaleString("en")} kimg`;
      const button = make("button", {type: "button", className: "thumb"}, picture(`checkpoint ${checkpoint}`, `Checkpoint at ${kimg}`));
      button.dataset.checkpoint = checkpoint;
      button.addEventListener("click", () => choose(checkpoint));
      return make("li", {}, button, make("span", {textContent: kimg}));
    }));
  }
  for (const button of list.querySelectorAll("button")) button.setAttribute("aria-current", String(button.dataset.checkpoint === state.checkpoint));
}

async function choose(checkpoint) {
  status(`Opening checkpoint ${checkpoint}…`);
  const newest = about.newest;
  about = {...await backend.about(checkpoint), newest};
  state.checkpoint = checkpoint;
  build();
  changed();
}

let nearestOf = "";
function showNearest({why, found, num}, of) {
  nearestOf = of;
  $("nearest-why").textContent = why || `Of ${num.toLocaleString("en")} training crops the nearest by pixels. A crop is shown only where its licence lets anybody show it.`;
  $("nearest").replaceChildren(...found.map(one => {
    const crop = one.shown ? make("img", {src: backend.crop(one.index), alt: `Training crop of ${one.title || one.key}`, loading: "lazy"})
      : make("div", {className: "hiddencrop", textContent: `not shown: ${one.license || "no licence on record"}`});
    const by = [one.author || "author unknown", one.license || "no licence"].join(", ");
    const link = one.page && /^https?:/.test(one.page) ? make("a", {href: one.page, target: "_blank", rel: "noopener noreferrer", textContent: "its page"}) : "no page on record";
    return make("li", {}, crop, make("span", {textContent: `distance ${one.distance}`}), link, make("span", {textContent: by}));
  }));
}

// ---------------------------------------------------------------------------------------------- walk

let walk = null;
function stopWalk() {
  if (!walk) return;
  walk.abort();
  walk = null;
  $("play").setAttribute("aria-pressed", "false");
  $("play").textContent = "Play walk";
}

async function playWalk() {
  if (walk) { stopWalk(); pump(); return; }
  if (state.pins.length < 2) return;
  const own = walk = new AbortController();
  $("play").setAttribute("aria-pressed", "true");
  $("play").textContent = "Stop walk";
  const begun = performance.now(), period = 2000 * state.pins.length;
  let shown = 0;
  try {
    while (walk === own) {
      const passed = performance.now() - begun;
      const image = await backend.frame(state.pins, (passed % period) / period, {checkpoint: state.checkpoint, signal: own.signal});
      if (image && walk === own) {
        show(image);
        shown += 1;
        status(`walking through ${state.pins.length} pictures, ${(1000 * shown / (performance.now() - begun)).toFixed(0)} frames a second`);
      }
      await rest(10);
    }
  } catch (error) {
    if (error.name !== "AbortError") status(error.message, true);
  }
}

// ---------------------------------------------------------------------------------------------- hands

const anySeed = () => Math.floor(Math.random() * 100000);
const step = by => { state.seed = clamp(state.seed + by, 0, MAX_SEED, 0); changed(); };

function pin() {
  const view = viewOf(state);
  if (state.pins.includes(view)) return status("this picture is pinned already");
  if (state.pins.length >= 24) return status("at most 24 pictures can be pinned");
  state.pins.push(view);
  changed();
}

function save(blob, name) {
  const link = make("a", {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function busy(button, words, work) {
  const text = button.textContent;
  button.disabled = true;
  button.textContent = words;
  try {
    await work();
  } catch (error) {
    status(error.message, true);
  } finally {
    button.disabled = false;
    button.textContent = text;
  }
}

const downloadPicture = () => busy($("download"), "Drawing…", async () => {
  const blob = await backend.download(viewOf(state), {checkpoint: state.checkpoint});
  if (blob) save(blob, `likeness-seed${state.seed}.png`); else status("overtaken by a newer picture: ask again", true);
});

function listen() {
  $("previous").onclick = () => step(-1);
  $("next").onclick = () => step(1);
  $("shuffle").onclick = () => { state.seed = anySeed(); changed(); };
  $("pin").onclick = pin;
  $("reset").onclick = () => {
    const {seed, pins, checkpoint} = state;
    state = Object.assign(readView(""), {seed, pins, checkpoint});
    changed();
  };
  $("seed").oninput = () => {
    const text = $("seed").value.trim();
    if (!/^\d{1,10}$/.test(text) || Number(text) > MAX_SEED) return status("a seed is a whole number from 0 to 2147483647", true);
    state.seed = Number(text);
    changed();
  };
  $("seed").onblur = sync;
  $("still").onclick = () => { state.moves = {}; changed(); };
  $("renoise").onclick = () => { state.renoise = state.renoise.map(anySeed); changed(); };
  $("ownnoise").onclick = () => { state.noise = state.noise.map(() => 1); state.renoise = state.renoise.map(() => null); changed(); };
  $("nearest-on").onchange = () => { nearestOf = ""; if ($("nearest-on").checked) pump(); else $("nearest").replaceChildren(); };
  $("play").onclick = playWalk;
  $("film").onclick = () => busy($("film"), "Filming…", async () => {
    const blob = await backend.film(state.pins, {checkpoint: state.checkpoint});
    save(blob, "likeness-walk.mp4");
  });
  $("download").onclick = downloadPicture;
  $("link").onclick = async () => {
    history.replaceState(null, "", address());
    try { await navigator.clipboard.writeText(location.href); status("link copied"); } catch { status("the link is in the address bar"); }
  };
  $("help").onclick = () => $("keys").showModal();
  addEventListener("hashchange", () => { readAddress(); changed(); });
  addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
    const hands = {ArrowLeft: () => step(-1), ArrowRight: () => step(1), s: () => $("shuffle").click(), p: pin, r: () => $("reset").click(), d: downloadPicture, "?": () => $("help").click()};
    if (event.key === " " && !event.target.closest("button, a, input")) hands[" "] = playWalk;
    if (hands[event.key]) { event.preventDefault(); hands[event.key](); }
  });
}

async function begin() {
  if (window.LIKENESS) backend = await openOnnx(window.LIKENESS, text => status(text));
  status("Opening the generator…");
  about = await backend.about();
  about.newest = about.checkpoint;
  const wanted = new URLSearchParams(location.hash.slice(1)).get("checkpoint");
  if (about.checkpoints.includes(wanted) && wanted !== about.checkpoint) about = {...await backend.about(wanted), newest: about.newest};
  readAddress();
  build();
  listen();
  changed();
}

begin().catch(error => status(`The explorer could not begin: ${error.message}`, true));
