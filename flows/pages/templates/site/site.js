const find = id => document.getElementById(id);
const status = find("status"), list = find("images"), dialog = find("image");
const count = SITE.firsts.length;
const NAMES = {
  key: "key", title: "title", author: "author", license: "licence", license_url: "licence's text", page: "page",
  ref: "photograph", photo_sha256: "photograph's sha256", split: "split", asked_at: "fetched",
  looked_at: "opt-outs looked for", evidence: "what they say",
};
const SEARCHED = ["key", "title", "author", "license", "page", "ref", "photo_sha256"];
const MOST = 400;
const waiting = new Map(), known = new Map();

function page(number, rows) {
  known.set(number, rows);
  waiting.get(number)?.(rows);
}

function rowsOf(number) {
  if (known.has(number)) return Promise.resolve(known.get(number));
  return new Promise((done, failed) => {
    waiting.set(number, done);
    const script = document.createElement("script");
    script.src = `pages/${String(number).padStart(5, "0")}.js`;
    script.onerror = () => failed(new Error(`${script.src} cannot be read`));
    script.onload = () => script.remove();
    document.head.append(script);
  });
}

function picture(element, number, place) {
  if (!SITE.pictures) { element.hidden = true; return; }
  const across = place % SITE.columns, down = Math.floor(place / SITE.columns);
  element.style.backgroundImage = `url("pages/${String(number).padStart(5, "0")}.jpg")`;
  element.style.backgroundPosition = `-${across * SITE.side}px -${down * SITE.side}px`;
}

function tile(row, number, place) {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", `${row.title || row.ref}, by ${row.author || "nobody named"}, ${row.license || "no licence said"}`);
  const small = document.createElement("div");
  small.className = "picture";
  picture(small, number, place);
  const title = document.createElement("span"), author = document.createElement("span");
  title.className = "title";
  author.className = "author";
  title.textContent = row.title || row.ref;
  author.textContent = row.author || "author not said";
  button.append(small, title, author);
  button.addEventListener("click", () => { location.hash = `image=${row.key}`; });
  item.append(button);
  return item;
}

function linked(value) {
  if (!/^https?:\/\//i.test(value)) return document.createTextNode(value);
  const link = document.createElement("a");
  link.href = value;
  link.rel = "noreferrer nofollow";
  link.textContent = value;
  return link;
}

function open(row, number, place) {
  picture(dialog.querySelector(".picture"), number, place);
  find("image-title").textContent = row.title || row.ref;
  const facts = dialog.querySelector("dl");
  facts.replaceChildren();
  for (const [name, label] of Object.entries(NAMES)) {
    const values = [row[name] ?? []].flat();
    if (name === "looked_at" && values.length) values.splice(0, values.length, values.join(", "));
    if (name === "evidence" && row.looked_at && !values.length) values.push("nothing");
    if (!values.length) continue;
    const term = document.createElement("dt");
    term.textContent = label;
    facts.append(term);
    for (const value of values) {
      const said = document.createElement("dd");
      said.append(linked(String(value)));
      facts.append(said);
    }
  }
  const subject = `Removal of image ${row.key} of ${SITE.name}@${SITE.version}`;
  find("ask").href = SITE.contact.startsWith("mailto:")
    ? `${SITE.contact}?subject=${encodeURIComponent(subject)}&body=${encodeURIComponent(`${subject}\n${row.ref}\n`)}`
    : SITE.contact;
  if (!dialog.open) dialog.showModal();
}

let asked = 0;
async function showPage(number) {
  const mine = ++asked;
  const rows = await rowsOf(number);
  if (mine !== asked) return;
  list.replaceChildren(...rows.map((row, place) => tile(row, number, place)));
  const first = number * SITE.perPage;
  status.textContent = `Images ${(first + 1).toLocaleString("en")} to ${(first + rows.length).toLocaleString("en")} of ${SITE.images.toLocaleString("en")}`;
  find("paging").hidden = count < 2;
  find("number").value = number + 1;
  find("number").max = count;
  find("of").textContent = `of ${count.toLocaleString("en")}`;
  find("before").disabled = number === 0;
  find("after").disabled = number === count - 1;
}

async function search(words) {
  const mine = ++asked;
  const wanted = words.toLowerCase().split(/\s+/);
  list.replaceChildren();
  find("paging").hidden = true;
  let found = 0;
  for (let number = 0; number < count; number++) {
    const rows = await rowsOf(number);
    if (mine !== asked) return;
    const tiles = [];
    rows.forEach((row, place) => {
      row.text ??= SEARCHED.map(name => row[name] || "").join("\n").toLowerCase();
      if (!wanted.every(word => row.text.includes(word))) return;
      if (++found <= MOST) tiles.push(tile(row, number, place));
    });
    list.append(...tiles);
    if (number % 25 === 0) status.textContent = `Searching: ${found.toLocaleString("en")} found, ${Math.round(100 * (number + 1) / count)}% looked at`;
  }
  const more = found > MOST ? `, of which ${MOST} are shown` : "";
  status.textContent = found ? `${found.toLocaleString("en")} found${more}` : `Nothing here has “${words}” in it.`;
}

async function showImage(key) {
  let number = SITE.firsts.findLastIndex(first => first <= key);
  const rows = number < 0 ? [] : await rowsOf(number);
  const place = rows.findIndex(row => row.key === key);
  if (place < 0) { status.textContent = `No image of this version has the key ${key}.`; return; }
  if (!list.children.length) await showPage(number);
  open(rows[place], number, place);
}

function show() {
  const at = new URLSearchParams(location.hash.slice(1));
  if (at.has("image")) return showImage(at.get("image"));
  if (dialog.open) dialog.close();
  if (at.has("q")) { find("words").value = at.get("q"); return search(at.get("q")); }
  if (at.has("page") || !list.children.length) {
    if (!count) { status.textContent = "No image is in this version."; return; }
    return showPage(Math.min(Math.max(Number(at.get("page") || 1) - 1 || 0, 0), count - 1));
  }
}

let before = "";
addEventListener("hashchange", event => {
  if (!/#image=/.test(event.oldURL)) before = new URL(event.oldURL).hash;
  show();
});
dialog.addEventListener("close", () => { if (/^#image=/.test(location.hash)) history.replaceState(null, "", before || "#gallery"); });
find("search").addEventListener("submit", event => {
  event.preventDefault();
  const words = find("words").value.trim();
  location.hash = words ? `q=${encodeURIComponent(words)}` : "page=1";
});
find("all").addEventListener("click", () => { find("words").value = ""; location.hash = "page=1"; });
find("before").addEventListener("click", () => { location.hash = `page=${Number(find("number").value) - 1}`; });
find("after").addEventListener("click", () => { location.hash = `page=${Number(find("number").value) + 1}`; });
find("number").addEventListener("change", event => { location.hash = `page=${event.target.value}`; });
Promise.resolve(show()).catch(error => { status.textContent = error.message; });
