// Drag turns what is seen, the wheel zooms where it points, keys do both. After: talk.js, live.js,
// view.js.

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

/** Has keys do what they do. @param {Object<string, () => void>} keys */
export function listenToKeys(element, keys) {
  element.addEventListener("keydown", (event) => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? null : keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

/** Pointer and wheel. @param {Seen} seen */
export function point(seen) {
  const { canvas } = seen;
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    const share = Math.PI / 2 / canvas.clientWidth; // a quarter turn across the picture
    seen.turn(-event.movementX * share, -event.movementY * share);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { scale, x, y } = seen.player.window(), ratio = canvas.width / canvas.clientWidth;
    seen.zoom(ZOOM ** (-event.deltaY / 100),
      (event.offsetX * ratio - x) / scale, (event.offsetY * ratio - y) / scale);
  }, { passive: false });
}
