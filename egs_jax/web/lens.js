// What a researcher wants to see of an avatar beside its picture: how its Gaussians lie, how far
// away they are, how much of each pixel they cover, what moves them, what they listen to. Additions
// to the programs of shaders.js, for view.html alone. Before: renderer.js, which takes one; after:
// view.js.

import { texture } from "./gl.js";
import { ROW } from "./shaders.js";

const SHAPES = ["splats", "points", "ellipsoids"];
const PAINTS = ["picture", "depth", "deltas", "shares"];
const SHARE_UNIT = 7; // after those of the textures that move Gaussians

export class Lens {
  constructor() {
    Object.assign(this, { shape: "splats", paint: "picture", isOpacity: false });
    /** Depths [head units] that are white and black, and the shift that is red. */
    Object.assign(this, { near: 3, far: 5, most: 0.02 });
    this.others = null;
    /** What is painted of each Gaussian, from 0, blue, to 1, red. @type {Float32Array?} */
    this.shares = this.sent = null;
  }

  /** @param {number} codes K */
  declarations(codes) {
    return `
uniform int shape, paint;
uniform vec3 range;                 // near, far, most
uniform vec4 others[${codes}];      // codes whose shifts are painted, times steps
uniform sampler2D shares;
vec3 heat(float share) {
  float at = clamp(share, 0.0, 1.0);
  return clamp(vec3(3.0 * at - 1.0, 1.5 - abs(3.0 * at - 1.5), 1.0 - 3.0 * at), 0.0, 1.0);
}`;
  }

  /** The end of moving: shapes and colors of its own. */
  moved = `
  if (shape == 1) place.zw = vec2(1.5, 0.0), reach = vec4(0.0, 1.5, 1.0, 1.0);
  if (shape == 2) place.zw *= 2.0, reach = vec4(2.0 * reach.xy, 1.0, 1.0);
  if (paint == 1) color.rgb = vec3(clamp((range.y - seen.z) / (range.y - range.x), 0.0, 1.0));
  if (paint == 2) {
    vec3 shift = vec3(0.0);
    for (int k = 0; k < CODES; k++) {
      shift += others[k].xyz * vec3(texelFetch(form, ivec3(at, 4 * k), 0).xyz);
    }
    color.rgb = heat(length(shift) / range.z);
  }
  if (paint == 3) color.rgb = heat(texelFetch(shares, at, 0).r);`;

  splatDeclarations = "uniform bool isSolid;";

  /** The start of a splat's fragment: a solid, shaded as a ball is. */
  splat = `
  if (isSolid) {
    float edge = dot(sigmas, sigmas);
    if (edge > 1.0) discard;
    pixel = vec4(paint.rgb * (1.0 - 0.5 * edge), 1.0);
    return;
  }`;

  coverDeclarations = "uniform bool isOpacity;";

  /** The end of covering. */
  cover = "if (isOpacity) pixel = vec4(vec3(1.0 - drawn.a), 1.0);";

  /** Tells the programs what is wanted. */
  send(gl, { moving, splatting, covering }, avatar) {
    gl.useProgram(moving.made);
    gl.uniform1i(moving.uniforms.shape, SHAPES.indexOf(this.shape));
    gl.uniform1i(moving.uniforms.paint, PAINTS.indexOf(this.paint));
    gl.uniform3f(moving.uniforms.range, this.near, this.far, this.most);
    const weights = new Float32Array(4 * avatar.codes), steps = avatar.formSteps;
    for (let i = 0; this.others && i < weights.length; i++) {
      weights[i] = this.others[i >> 2] * steps[14 * (i >> 2) + (i & 3)];
    }
    gl.uniform4fv(moving.uniforms["others[0]"], weights);
    gl.uniform1i(moving.uniforms.shares, SHARE_UNIT);
    this.sendShares(gl, avatar);
    gl.useProgram(splatting.made);
    gl.uniform1i(splatting.uniforms.isSolid, this.shape === "splats" ? 0 : 1);
    gl.useProgram(covering.made);
    gl.uniform1i(covering.uniforms.isOpacity, this.isOpacity ? 1 : 0);
  }

  /** Has nothing on the GPU any more. */
  forget() {
    this.texture = this.sent = null;
  }

  /** Sends what is painted of each Gaussian, if it is another than before. */
  sendShares(gl, { count }) {
    const rows = Math.ceil(count / ROW);
    this.texture ??= texture(gl, gl.R32F, ROW, rows);
    gl.activeTexture(gl.TEXTURE0 + SHARE_UNIT);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    if (this.shares === this.sent) return;
    const padded = new Float32Array(ROW * rows);
    padded.set(this.shares);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ROW, rows, gl.RED, gl.FLOAT, padded);
    this.sent = this.shares;
  }
}
