// A worker that finds in which order Gaussians are drawn: the nearest first. It moves their means
// by the codes itself (2.4 million multiply-adds for 25,000 and 32 codes), so that nothing is read
// back from the GPU. A script of its own, without imports.
//
// Messages in: {means, counts, skins, codes}, once; then {weights, head, body}: codes times steps,
// and the third rows of both poses. Out: an order for each.

let cloud = null;

self.onmessage = ({ data }) => {
  if (data.means) {
    cloud = data;
    return;
  }
  const order = sorted(depths(cloud, data));
  self.postMessage(order, [order.buffer]);
};

/** Depth of every Gaussian before the camera. */
function depths({ means, counts, skins, codes }, { weights, head, body }) {
  const count = skins.length, moved = new Float32Array(3 * count), depth = new Float32Array(count);
  for (let d = 0; d < 3; d++) {
    const along = moved.subarray(d * count, (d + 1) * count);
    for (let n = 0; n < count; n++) along[n] = means[3 * n + d];
    for (let k = 0; k < codes; k++) {
      const weight = weights[3 * k + d], first = (3 * k + d) * count;
      for (let n = 0; n < count; n++) along[n] += weight * counts[first + n];
    }
  }
  const away = (row, n) =>
    row[0] * moved[n] + row[1] * moved[count + n] + row[2] * moved[2 * count + n] + row[3];
  for (let n = 0; n < count; n++) {
    const own = away(head, n);
    depth[n] = own + skins[n] * (away(body, n) - own);
  }
  return depth;
}

/** Indices by depth, of equal ones by themselves: sorted by 11 bits at a time, which is stable. */
function sorted(depth) {
  const count = depth.length, bits = new Uint32Array(depth.buffer);
  // Bits of floats, turned so that they have the order of the floats.
  for (let n = 0; n < count; n++) bits[n] = bits[n] >>> 31 ? ~bits[n] : bits[n] | 0x80000000;
  let from = Uint32Array.from({ length: count }, (_, n) => n), to = new Uint32Array(count);
  for (const shift of [0, 11, 22]) {
    const starts = new Uint32Array(2049);
    for (let n = 0; n < count; n++) starts[((bits[n] >>> shift) & 2047) + 1]++;
    for (let i = 1; i < 2049; i++) starts[i] += starts[i - 1];
    for (let i = 0; i < count; i++) {
      to[starts[(bits[from[i]] >>> shift) & 2047]++] = from[i];
    }
    [from, to] = [to, from];
  }
  return from;
}
