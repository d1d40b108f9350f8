// Drag turns what is seen, the wheel and two fingers zoom where they point, keys do both. After:
// talk.js, live.js, view.js.

const TURN = Math.PI / 60, ZOOM = 1.15; // of a key: radians, a factor

/**
 * @typedef {object} Seen what is turned
 * @property {HTMLCanvasElement} canvas
 * @property {import("./player.js").Player} player
 * @property {(yaw: number, pitch: number) => void} turn
 * @property {(factor: number, x?: number, y?: number) => void} zoom
 * @property {() => void} reset
 */

/** What keys do to it, by their names. @param {Seen} seen */
export function viewKeys(seen) {
  return {
    ArrowLeft: () => seen.turn(TURN, 0), ArrowRight: () => seen.turn(-TURN, 0),
    ArrowUp: () => seen.turn(0, TURN), ArrowDown: () => seen.turn(0, -TURN),
    "+": () => seen.zoom(ZOOM), "=": () => seen.zoom(ZOOM), "-": () => seen.zoom(1 / ZOOM),
    "0": () => seen.reset(),
  };
}

/** Has keys do what they do. @param {Object<string, (event: KeyboardEvent) => void>} keys */
export function listenToKeys(element, keys) {
  element.addEventListener("keydown", (event) => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? null : keys[event.key];
    if (!act) return;
    event.preventDefault();
    act(event);
  });
}

/** Pointers and wheel. @param {Seen} seen */
export function point(seen) {
  const { canvas } = seen;
  /** Where those that are down are. @type {Map<number, number[]>} */
  const down = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, [event.clientX, event.clientY]);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => down.delete(event.pointerId));
  }
  canvas.addEventListener("pointermove", (event) => {
    const before = down.get(event.pointerId), now = [event.clientX, event.clientY];
    if (!before) return;
    const others = [...down.values()].filter((place) => place !== before);
    down.set(event.pointerId, now);
    if (others.length) pinch(seen, others[0], before, now);
    else drag(seen, before, now);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    seen.zoom(ZOOM ** (-event.deltaY / 100), ...placeOf(seen, event.clientX, event.clientY));
  }, { passive: false });
}

function drag(seen, before, now) {
  const share = Math.PI / 2 / seen.canvas.clientWidth; // a quarter turn across the picture
  seen.turn((before[0] - now[0]) * share, (before[1] - now[1]) * share);
}

/** One of two fingers moves: the picture grows as the way between them does. */
function pinch(seen, other, before, now) {
  const apart = ([x, y]) => Math.max(Math.hypot(x - other[0], y - other[1]), 1);
  const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
  seen.zoom(apart(now) / apart(before), ...placeOf(seen, ...middle));
}

/** A place of the window, in the avatar's picture. */
function placeOf({ canvas, player }, clientX, clientY) {
  const { scale, x, y } = player.window(), { left, top } = canvas.getBoundingClientRect();
  const ratio = canvas.width / canvas.clientWidth;
  return [((clientX - left) * ratio - x) / scale, ((clientY - top) * ratio - y) / scale];
}
