// Rigid poses, and from where an avatar may be looked at: the twin of egs_jax/model/limits.py.
//
// OpenCV axes (x right, y down, z away); a pose x -> turn x + shift brings head or body space to
// the camera. Head space is the world that is drawn; where its camera would look along a direction
// that training never saw, the world is turned with the camera: pixels stay, colors see another
// direction.

/**
 * @typedef {object} Pose
 * @property {number[]} turn rotation, 9 numbers row by row
 * @property {number[]} shift 3 numbers
 */

const REACH = 0.25; // most that a limited number goes beyond the seen range, of half of it

/** @returns {Pose} first `b`, then `a` */
export function product(a, b) {
  const turn = [], shift = [];
  for (let i = 0; i < 3; i++) {
    const row = a.turn.slice(3 * i, 3 * i + 3);
    for (let k = 0; k < 3; k++) {
      turn.push(row[0] * b.turn[k] + row[1] * b.turn[3 + k] + row[2] * b.turn[6 + k]);
    }
    shift.push(dot(row, b.shift) + a.shift[i]);
  }
  return { turn, shift };
}

/** @returns {Pose} what undoes `a` */
export function inverse(a) {
  const turn = [0, 3, 6, 1, 4, 7, 2, 5, 8].map((i) => a.turn[i]);
  return { turn, shift: [0, 1, 2].map((i) => -dot(turn.slice(3 * i, 3 * i + 3), a.shift)) };
}

/** Rotation, row by row, of a quaternion (w, x, y, z) of any length but zero. */
export function turnOf([w, x, y, z]) {
  const two = 2 / (w * w + x * x + y * y + z * z);
  return [
    1 - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y),
    two * (x * y + w * z), 1 - two * (x * x + z * z), two * (y * z - w * x),
    two * (x * z - w * y), two * (y * z + w * x), 1 - two * (x * x + y * y),
  ];
}

/** Unit quaternion, w >= 0, of a rotation by any angle. */
export function quatOf([xx, xy, xz, yx, yy, yz, zx, zy, zz]) {
  const rows = [
    [1 + xx + yy + zz, zy - yz, xz - zx, yx - xy],
    [zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx],
    [xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy],
    [yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz],
  ];
  let best = 0; // of rows that are all 4 q_i q, the one with the largest q_i
  for (let k = 1; k < 4; k++) if (rows[k][k] > rows[best][best]) best = k;
  const scale = (rows[best][0] < 0 ? -0.5 : 0.5) / Math.sqrt(rows[best][best]);
  return rows[best].map((value) => scale * value);
}

/** Quaternion between two, evenly turned; `share` 0 is the first, 1 the second. */
export function quatBetween(a, b, share) {
  const cosine = dot(a, b), sign = cosine < 0 ? -1 : 1;
  const angle = Math.acos(Math.min(1, Math.abs(cosine)));
  // Of nearly equal ones the straight line is as even.
  const [from, to] = angle < 1e-4
    ? [1 - share, share]
    : [Math.sin((1 - share) * angle), Math.sin(share * angle)].map((v) => v / Math.sin(angle));
  return a.map((value, i) => from * value + to * sign * b[i]);
}

/**
 * Where head and body are in the world that is drawn, and how it is looked at.
 * @param {Float32Array} limits of an avatar
 * @param {Pose} head head space -> camera
 * @param {Pose} body body space -> camera
 * @returns {{head: Pose, body: Pose, view: Pose}} to the world, and of it to the camera
 */
export function placed(limits, head, body) {
  const turned = turns(limits, head);
  return {
    head: turned,
    body: product(turned, product(inverse(head), body)),
    view: product(head, inverse(turned)),
  };
}

/**
 * The same poses looked at from elsewhere: the camera goes around the head, as far as its training
 * went and a little further.
 * @param {Float32Array} limits of an avatar
 * @param {{head: Pose, body: Pose}} poses
 * @param {number} yaw by which it goes to the right, radians
 * @param {number} pitch by which it goes down
 * @param {boolean} isFree whether it may go anywhere
 * @returns {{head: Pose, body: Pose}}
 */
export function lookedAt(limits, { head, body }, yaw, pitch, isFree = false) {
  if (yaw === 0 && pitch === 0) return { head, body };
  const from = direction(head), { center, axes } = ellipse(limits);
  const before = radius(from, center, axes);
  const wanted = { yaw: from.yaw + yaw, pitch: from.pitch + pitch };
  const to = isFree ? wanted : shortened(wanted, center, axes, Math.max(1 + REACH, before));
  const moved = product(head, inverse(around(from.vector, vectorOf(to))));
  return { head: moved, body: product(moved, product(inverse(head), body)) };
}

/**
 * Turns a view by angles, from one side of what was seen to the other at most.
 * @param {{yaw: number, pitch: number}} view radians, changed
 * @param {number[]} axes how far yaw and pitch of seen directions reach
 */
export function turnView(view, axes, yaw, pitch) {
  const held = (value, axis) => Math.min(Math.max(value, -2.5 * axis), 2.5 * axis);
  view.yaw = held(view.yaw + yaw, axes[0]);
  view.pitch = held(view.pitch + pitch, axes[1]);
}

/** Smallest turn of the world that has the camera look along a seen direction (`Limits.turns`). */
function turns(limits, head) {
  const { center, axes } = ellipse(limits), seen = direction(head);
  const far = radius(seen, center, axes);
  if (far <= 1) return around(seen.vector, seen.vector);
  const most = 1 + REACH * Math.tanh((far - 1) / REACH);
  return around(seen.vector, vectorOf(shortened(seen, center, axes, most)));
}

/** Direction in head space from which the camera looks, 0 in front of the face. */
function direction(head) {
  const [x, y, z] = inverse(head).shift, length = Math.hypot(x, y, z);
  return {
    vector: [x / length, y / length, z / length],
    yaw: Math.atan2(x, -z),
    pitch: Math.atan2(y, Math.hypot(x, z)),
  };
}

function vectorOf({ yaw, pitch }) {
  const flat = Math.cos(pitch);
  return [flat * Math.sin(yaw), Math.sin(pitch), -flat * Math.cos(yaw)];
}

function ellipse(limits) {
  return { center: [limits[21], limits[22]], axes: [limits[23], limits[24]] };
}

/** How far a direction is from the middle of the seen ones, 1 at their border. */
function radius({ yaw, pitch }, center, axes) {
  return Math.hypot(wrapped(yaw - center[0]) / axes[0], (pitch - center[1]) / axes[1]);
}

/** The direction at most `most` from the middle. */
function shortened(angles, center, axes, most) {
  const share = Math.min(1, most / Math.max(radius(angles, center, axes), 1e-9));
  return {
    yaw: center[0] + share * wrapped(angles.yaw - center[0]),
    pitch: center[1] + share * (angles.pitch - center[1]),
  };
}

function wrapped(angle) {
  const round = 2 * Math.PI;
  return ((((angle + Math.PI) % round) + round) % round) - Math.PI;
}

/** Smallest rotation of a unit vector to another, about the origin. */
function around(a, b) {
  const cross = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  return { turn: turnOf([Math.max(1 + dot(a, b), 1e-4), ...cross]), shift: [0, 0, 0] };
}

function dot(a, b) {
  return a.reduce((sum, value, i) => sum + value * b[i], 0);
}
