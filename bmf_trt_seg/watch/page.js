"use strict";
(() => {
  const POLL_MS = 1000, HIDDEN_POLL_MS = 5000, PATIENCE_MS = 4000, RETRY_MS = 1500;
  const SVG = "http://www.w3.org/2000/svg";
  const WORDS = { up: "Up", connecting: "Connecting", away: "Away", ended: "Ended" };
  const byId = (id) => document.getElementById(id);
  const main = byId("streams");
  const tiles = new Map();
  const counted = new Intl.NumberFormat("en");

  // the cookie that came with the page does from here on what the token in the address did
  if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname);

  // ---- numbers ------------------------------------------------------------------------------------------------

  const NOT_KNOWN = "\u2013";
  const fixed = (value, digits) => (value === null ? NOT_KNOWN : value.toFixed(digits));
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  function ago(seconds) {
    if (seconds === null) return NOT_KNOWN;
    if (seconds < 10) return `${seconds.toFixed(2)} s`;
    if (seconds < 120) return `${Math.floor(seconds)} s`;
    if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
    return `${Math.floor(seconds / 3600)} h`;
  }

  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  // ---- one stream ---------------------------------------------------------------------------------------------

  class Tile {
    constructor(name) {
      this.name = name;
      this.root = byId("tile").content.firstElementChild.cloneNode(true);
      const find = (selector) => this.root.querySelector(selector);
      this.canvas = find("canvas");
      this.nothing = find(".nothing");
      this.icon = find(".state use");
      this.stateText = find(".state span");
      this.error = find(".error");
      this.plot = find(".plot svg");
      this.most = find(".most");
      this.span = find(".span");
      this.legend = find(".legend");
      this.outputs = find(".outputs");
      this.numbers = new Map([...this.root.querySelectorAll("[data-of]")].map((one) => [one.dataset.of, one]));
      find("h2").textContent = name;
      this.canvas.setAttribute("aria-label", `Picture of ${name}: none yet`);
    }

    async draw(blob) {
      const bitmap = await createImageBitmap(blob);
      if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
        this.canvas.width = bitmap.width;
        this.canvas.height = bitmap.height;
      }
      this.canvas.getContext("2d").drawImage(bitmap, 0, 0);
      bitmap.close();
      this.nothing.hidden = true;
    }

    show(stream, content) {
      const shown = stream.is_late ? "away" : stream.state;
      const word = stream.is_late ? "No frames" : WORDS[stream.state] || stream.state;
      this.root.dataset.state = shown;
      this.root.classList.toggle("old", shown === "away" || shown === "ended");
      this.icon.setAttribute("href", `#${shown}`);
      setText(this.stateText, word);
      const tellsError = Boolean(stream.last_error) && shown !== "up";
      this.error.hidden = !tellsError;
      if (tellsError) setText(this.error, `Last error: ${stream.last_error}`);
      setText(this.nothing, stream.state === "connecting" ? "Waiting for the first frame" : "No picture yet");
      const dropped = Object.entries(stream.dropped_for).filter(([, frames]) => frames);
      this.number("fps_in", fixed(stream.fps_in, 1));
      this.number("fps_out", fixed(stream.fps_out, 1));
      this.number("latency", fixed(stream.latency_ms, 0));
      this.number("age", ago(stream.last_frame_age_seconds));
      this.number("dropped", counted.format(stream.dropped));
      this.number("reconnects", counted.format(stream.reconnects));
      this.numbers.get("reconnects").title = stream.restarts ? `and ${stream.restarts} starts anew of its graph` : "";
      this.numbers.get("dropped").title = dropped.map(([reason, frames]) => `${reason}: ${frames}`).join(", ");
      if (this.nothing.hidden) {
        const size = stream.size ? `, ${stream.size[0]} by ${stream.size[1]} pixels` : "";
        this.canvas.setAttribute("aria-label", `${shown === "up" ? "Live" : "Last"} picture of ${this.name}${size}`);
      }
      setText(this.span, `${Math.round(content.chart_seconds / 60)} min ago`);
      this.showOutputs(stream.outputs);
      this.showShares(stream.shares);
    }

    showOutputs(outputs) {
      while (this.outputs.children.length > outputs.length) this.outputs.lastChild.remove();
      outputs.forEach((output, at) => {
        const entry = this.outputs.children[at] || this.outputs.appendChild(outputEntry());
        entry.className = output.state;
        entry.title = output.state === "up" ? output.name : [output.name, output.last_error].filter(Boolean).join(": ");
        const [kind, name, state] = entry.children;
        setText(kind, output.kind);
        setText(name, output.name);
        setText(state, WORDS[output.state] || output.state);
      });
    }

    number(key, text) {
      setText(this.numbers.get(key), text);
    }

    showShares(shares) {
      const bands = shares.classes.map((one) => ({ ...one, others: false }));
      if (shares.others) bands.push({ ...shares.others, label: "others", color: null, others: true });
      const steps = bands.length ? bands[0].points.length : 0;
      const sums = new Array(steps).fill(0);
      for (const band of bands) band.points.forEach((value, at) => { sums[at] += value || 0; });
      const highest = Math.max(0, ...sums);
      const top = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75].find((limit) => steps && highest <= limit) || 1;
      setText(this.most, `${Math.round(100 * top)} %`);
      this.plot.setAttribute("viewBox", `0 0 ${Math.max(1, steps)} 100`);
      const below = new Array(steps).fill(0);
      const paths = bands.map((band) => {
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("class", band.others ? "band others" : "band");
        path.setAttribute("d", outline(band.points, below, 100 / top));
        if (band.color) path.style.fill = band.color;
        band.points.forEach((value, at) => { below[at] += value || 0; });
        return path;
      });
      this.plot.replaceChildren(...paths);
      const told = bands.map((band) => `${band.label} ${percent(band.share)}`).join(", ");
      this.plot.setAttribute("aria-label", told ? `Class shares now: ${told}` : "Class shares: none yet");
      this.showLegend(bands);
    }

    showLegend(bands) {
      const key = JSON.stringify(bands.map((band) => [band.label, band.color]));
      if (this.legendKey !== key) {
        this.legendKey = key;
        this.legend.replaceChildren(...bands.map(legendEntry));
        if (!bands.length) {
          const entry = document.createElement("li");
          entry.className = "no-class";
          entry.textContent = "No class seen yet";
          this.legend.append(entry);
        }
      }
      bands.forEach((band, at) => setText(this.legend.children[at].lastChild, percent(band.share)));
    }
  }

  function outputEntry() {
    const entry = document.createElement("li");
    entry.append(document.createElement("span"), document.createElement("span"), document.createElement("b"));
    entry.children[0].className = "kind";
    entry.children[1].className = "name";
    return entry;
  }

  function legendEntry(band) {
    const entry = document.createElement("li"), swatch = document.createElement("i");
    if (band.others) swatch.className = "others";
    else swatch.style.background = band.color;
    entry.append(swatch, document.createElement("span"), document.createElement("b"));
    entry.children[1].textContent = band.label;
    return entry;
  }

  /** The outline of a band on top of others, one piece for each time without gaps. */
  function outline(points, below, scale) {
    const height = (value) => (100 - value * scale).toFixed(2);
    let path = "";
    for (let first = 0; first < points.length; first++) {
      if (points[first] === null) continue;
      let last = first;
      while (last + 1 < points.length && points[last + 1] !== null) last++;
      const places = [[first, first]];
      for (let at = first; at <= last; at++) places.push([at + 0.5, at]);
      places.push([last + 1, last]);
      const upper = places.map(([x, at]) => `${x} ${height(below[at] + points[at])}`);
      const lower = places.reverse().map(([x, at]) => `${x} ${height(below[at])}`);
      path += `M${upper.concat(lower).join("L")}Z`;
      first = last;
    }
    return path;
  }

  // ---- all of them --------------------------------------------------------------------------------------------

  function show(content) {
    const names = content.streams.map((stream) => stream.stream);
    for (const [name, tile] of tiles) {
      if (!names.includes(name)) {
        tile.root.remove();
        tiles.delete(name);
      }
    }
    content.streams.forEach((stream, place) => {
      let tile = tiles.get(stream.stream);
      if (!tile) {
        tile = new Tile(stream.stream);
        tiles.set(stream.stream, tile);
      }
      if (main.children[place] !== tile.root) main.insertBefore(tile.root, main.children[place] || null);
      tile.show(stream, content);
    });
    const count = names.length;
    main.style.setProperty("--columns", count < 2 ? 1 : count < 5 ? 2 : count < 10 ? 3 : 4);
    byId("none").hidden = count > 0;
    const up = content.streams.filter((stream) => stream.state === "up" && !stream.is_late).length;
    const away = content.streams.filter((stream) => stream.state === "away" || stream.is_late);
    const namesAway = away.length ? `; away: ${away.map((stream) => stream.stream).join(", ")}` : "";
    setText(byId("summary"), count ? `${up} of ${count} up${namesAway}` : "");
    document.title = count ? `${up} of ${count} up - bmf-trt-seg` : "Streams - bmf-trt-seg";
  }

  function trouble(text) {
    const element = byId("trouble");
    if (text) setText(element, text);
    element.hidden = !text;
    document.body.classList.toggle("unreachable", Boolean(text));
  }

  let lostAt = null;

  async function poll() {
    try {
      const answer = await fetch("streams.json", { signal: AbortSignal.timeout(PATIENCE_MS) });
      if (answer.status === 401) trouble("The server wants its token: open this page as /?token=TOKEN.");
      else if (!answer.ok) throw new Error(`status ${answer.status}`);
      else {
        show(await answer.json());
        trouble("");
      }
      lostAt = null;
    } catch (error) {
      lostAt = lostAt || new Date();
      trouble(`Server not reachable since ${lostAt.toLocaleTimeString()}. Trying again.`);
      document.title = "Not reachable - bmf-trt-seg";
      byId("none").hidden = true;
    }
    setTimeout(poll, document.hidden ? HIDDEN_POLL_MS : POLL_MS);
  }

  // ---- pictures: of all streams through one connection, because a browser opens no more than six to a server ------

  let watching = null;

  async function watch() {
    if (document.hidden || watching) return;
    const mine = watching = new AbortController();
    try {
      const answer = await fetch("previews", { signal: mine.signal });
      if (answer.ok) await readParts(answer.body.getReader());
    } catch (error) {
      // the server went away, or this page was hidden
    }
    if (watching === mine) watching = null;
    if (!document.hidden) setTimeout(watch, RETRY_MS);
  }

  async function readParts(reader) {
    let waiting = new Uint8Array(0);
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const joined = new Uint8Array(waiting.length + value.length);
      joined.set(waiting);
      joined.set(value, waiting.length);
      waiting = joined;
      for (let part = takePart(waiting); part; part = takePart(waiting)) {
        waiting = waiting.subarray(part.end);
        const tile = tiles.get(part.stream);
        if (tile) await tile.draw(part.blob).catch(() => {});
      }
    }
  }

  /** The first whole part of a multipart body; null while it is not all there. */
  function takePart(bytes) {
    let end = -1;
    for (let at = 0; at + 3 < bytes.length; at++) {
      if (bytes[at] === 13 && bytes[at + 1] === 10 && bytes[at + 2] === 13 && bytes[at + 3] === 10) {
        end = at + 4;
        break;
      }
    }
    if (end < 0) return null;
    const head = new TextDecoder().decode(bytes.subarray(0, end));
    const length = Number(/^Content-Length: (\d+)/im.exec(head)[1]);
    const stream = decodeURIComponent(/^X-Stream: (\S*)/im.exec(head)[1]);
    if (bytes.length < end + length + 2) return null;
    return { stream, blob: new Blob([bytes.slice(end, end + length)], { type: "image/jpeg" }), end: end + length + 2 };
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) watch();
    else if (watching) {
      watching.abort();
      watching = null;
    }
  });

  poll();
  watch();
})();
