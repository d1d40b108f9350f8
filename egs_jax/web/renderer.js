// Draws an avatar with WebGL2, as codes and poses move it.
//
// `move` computes all splats of a moment, once for however many pictures. `draw` blends them, the
// nearest first, into 16-bit floats: color times what is still seen through, and that share itself.
// Pixels through which less than 1/1024 is seen are closed: most splats lie behind such. Patterns
// stay on the GPU; a frame sends it 2.5 KB of weights, and 4 bytes a Gaussian when their order
// changed. Before: shaders.js; after: player.js.

import { FORM } from "./avatar.js";
import { layered, layers, program, quads, target, texture } from "./gl.js";
import { quatOf } from "./poses.js";
import {
  CLOSE_FRAGMENTS, COVER_VERTICES, ROW, SPLAT_VERTICES, coverFragments, moveFragments,
  splatFragments,
} from "./shaders.js";

const FORM_TEXELS = 4;
const CHUNKS = 16; // after each of which pixels that are opaque are closed

/** @typedef {{scale: number, x: number, y: number}} Window picture's pixels -> screen's */

export class Renderer {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./avatar.js").Avatar} avatar
   * @param {import("./lens.js").Lens?} lens what it shows beside the picture
   */
  constructor(canvas, avatar, lens = null) {
    const gl = canvas.getContext("webgl2", { alpha: true, antialias: false, depth: false });
    if (!gl) throw new Error("this browser has no WebGL2");
    Object.assign(this, { gl, canvas, avatar, lens });
    this.begin();
    this.behind = { color: [0, 0, 0, 0], picture: null, image: null };
    this.showPicture(avatar.plate, avatar.width, avatar.height);
  }

  /** Makes all that lies on the GPU, but what is behind the person. */
  begin() {
    const { gl, avatar, lens } = this;
    if (!gl.getExtension("EXT_color_buffer_float") && !gl.isContextLost()) {
      throw new Error("this browser's WebGL2 cannot draw to float textures");
    }
    this.rows = Math.ceil(avatar.count / ROW);
    this.groups = Math.ceil((avatar.harmonics - 1) / 4);
    const most = gl.getParameter(gl.MAX_ARRAY_TEXTURE_LAYERS);
    if (FORM_TEXELS * avatar.codes > most) throw new Error(`more than ${most} layers of codes`);
    this.moving = program(gl, COVER_VERTICES, moveFragments(avatar, lens));
    this.splatting = program(gl, SPLAT_VERTICES, splatFragments(lens));
    this.closing = program(gl, COVER_VERTICES, CLOSE_FRAGMENTS);
    this.covering = program(gl, COVER_VERTICES, coverFragments(lens));
    this.sendAvatar();
    this.splats = [0, 1, 2].map(() => texture(gl, gl.RGBA32F, ROW, this.rows));
    this.moved = target(gl, this.splats);
    this.order = texture(gl, gl.R32UI, ROW, this.rows);
    this.places = new Uint32Array(ROW * this.rows);
    this.ordered = 0; // how many Gaussians have an order
    this.quads = quads(gl, avatar.count);
    this.person = null; // where it is blended, once its size is known
  }

  /** Makes it anew where the browser has lost it. */
  restore() {
    const { color, image } = this.behind;
    this.lens?.forget();
    this.begin();
    this.behind = { color, picture: null, image: null };
    if (image) this.showPicture(...image);
  }

  /** Sends what no frame changes. */
  sendAvatar() {
    const { gl, avatar, rows } = this, { count, harmonics, codes, shineCodes } = avatar;
    const more = 3 * (harmonics - 1), texels = 3 * this.groups, room = 4 * ROW * rows;
    const bytes = (data) => layers(gl, rows, gl.RGBA8I, gl.RGBA_INTEGER, gl.BYTE, data);
    const cloud = layered(
      new Float32Array(FORM_TEXELS * room), rows, count, 1, FORM_TEXELS, FORM + 1, atRest(avatar));
    const form = layered(
      new Int8Array(FORM_TEXELS * codes * room), rows, count, codes, FORM_TEXELS, FORM,
      (k, i, n) => avatar.formCounts[(k * FORM + i) * count + n]);
    this.arrays = {
      cloud: layers(gl, rows, gl.RGBA32F, gl.RGBA, gl.FLOAT, cloud), form: bytes(form),
    };
    if (this.groups) {
      const harmonic = layered(
        new Uint16Array(texels * room), rows, count, 1, texels, more,
        (_, i, n) => avatar.sh[3 * harmonics * n + 3 + i]);
      const shine = layered(
        new Int8Array(texels * shineCodes * room), rows, count, shineCodes, texels, more,
        (k, i, n) => avatar.shineCounts[(k * more + i) * count + n]);
      this.arrays.harmonic = layers(gl, rows, gl.RGBA16F, gl.RGBA, gl.HALF_FLOAT, harmonic);
      this.arrays.shine = bytes(shine);
    }
    const weights = FORM_TEXELS * codes + 3 * this.groups * shineCodes + 1;
    this.weights = new Float32Array(4 * weights);
    this.weightBuffer = gl.createBuffer();
    gl.bindBuffer(gl.UNIFORM_BUFFER, this.weightBuffer);
    gl.bufferData(gl.UNIFORM_BUFFER, this.weights.byteLength, gl.DYNAMIC_DRAW);
    const { made } = this.moving;
    gl.uniformBlockBinding(made, gl.getUniformBlockIndex(made, "Weights"), 0);
  }

  /**
   * Moves all Gaussians.
   * @param {Float32Array} codes
   * @param {{head: Pose, body: Pose, view: Pose}} placed of poses.js
   */
  move(codes, placed) {
    const { gl, avatar } = this, { uniforms } = this.moving;
    this.weigh(codes);
    this.lens?.send(gl, this, avatar);
    gl.useProgram(this.moving.made);
    const quats = [quatOf(placed.head.turn), quatOf(placed.body.turn)];
    const apart = quats[0].reduce((sum, value, i) => sum + value * quats[1][i], 0) < 0;
    for (const [name, pose] of Object.entries(placed)) {
      gl.uniformMatrix3fv(uniforms[`${name}Turn`], true, pose.turn);
      gl.uniform3fv(uniforms[`${name}Shift`], pose.shift);
    }
    gl.uniform4fv(uniforms.headQuat, quats[0]);
    gl.uniform4fv(uniforms.bodyQuat, quats[1].map((value) => (apart ? -value : value)));
    const { turn, shift } = placed.view;
    gl.uniform3fv(uniforms.eye, [0, 1, 2].map((i) =>
      -(turn[i] * shift[0] + turn[3 + i] * shift[1] + turn[6 + i] * shift[2])));
    gl.uniform4fv(uniforms.camera, avatar.camera);
    gl.uniform2f(uniforms.size, avatar.width, avatar.height);
    gl.bindBufferBase(gl.UNIFORM_BUFFER, 0, this.weightBuffer);
    this.bind(this.moving, gl.TEXTURE_2D_ARRAY, this.arrays);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.moved);
    gl.viewport(0, 0, ROW, this.rows);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** Sends codes times steps, number by number. */
  weigh(codes) {
    const { gl, avatar, weights } = this, more = 3 * (avatar.harmonics - 1);
    const shine = 4 * FORM_TEXELS * avatar.codes, numbers = 12 * this.groups;
    codes.forEach((code, k) => {
      for (let i = 0; i < FORM; i++) {
        weights[4 * FORM_TEXELS * k + i] = code * avatar.formSteps[FORM * k + i];
      }
    });
    for (let k = 0; k < avatar.shineCodes; k++) {
      const code = codes.reduce((sum, own, j) =>
        sum + own * avatar.follows[avatar.shineCodes * j + k], 0);
      for (let i = 0; i < more; i++) {
        weights[shine + numbers * k + i] = code * avatar.shineSteps[more * k + i];
      }
    }
    gl.bindBuffer(gl.UNIFORM_BUFFER, this.weightBuffer);
    gl.bufferSubData(gl.UNIFORM_BUFFER, 0, weights);
  }

  /** Takes the order to draw in. @param {Uint32Array} order Gaussians, the nearest first */
  arrange(order) {
    const { gl } = this;
    this.places.set(order);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.order);
    gl.texSubImage2D(
      gl.TEXTURE_2D, 0, 0, 0, ROW, this.rows, gl.RED_INTEGER, gl.UNSIGNED_INT, this.places);
    this.ordered = order.length;
  }

  /** Draws what was moved last, over all of the canvas. @param {Window} window */
  draw(window) {
    const { gl, canvas } = this, { width, height } = canvas;
    this.resize(width, height);
    gl.viewport(0, 0, width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.person.blended);
    gl.clearColor(0, 0, 0, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendFuncSeparate(gl.DST_ALPHA, gl.ONE, gl.ZERO, gl.ONE_MINUS_SRC_ALPHA);
    const place = [window.scale, window.scale, window.x, window.y];
    const size = Math.ceil(this.ordered / CHUNKS);
    for (let first = 0; first < this.ordered; first += size) {
      this.splat(place, first, Math.min(size, this.ordered - first));
      this.close();
    }
    gl.disable(gl.DEPTH_TEST);
    gl.disable(gl.BLEND);
    this.cover(place);
  }

  /** Blends the splats that are next in the order. */
  splat(place, first, count) {
    const { gl, canvas } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.person.blended);
    gl.depthMask(false);
    gl.useProgram(this.splatting.made);
    gl.uniform4fv(this.splatting.uniforms.window, place);
    gl.uniform2f(this.splatting.uniforms.screen, canvas.width, canvas.height);
    const [places, reaches, colors] = this.splats;
    this.bind(this.splatting, gl.TEXTURE_2D, { order: this.order, places, reaches, colors });
    gl.bindVertexArray(this.quads);
    gl.drawElements(gl.TRIANGLES, 6 * count, gl.UNSIGNED_INT, 24 * first);
    gl.bindVertexArray(null);
  }

  /** Closes the pixels that are opaque by now. */
  close() {
    const { gl } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.person.closed);
    gl.depthMask(true);
    gl.useProgram(this.closing.made);
    this.bind(this.closing, gl.TEXTURE_2D, { person: this.person.colors });
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  cover(place) {
    const { gl, canvas, avatar } = this, { uniforms } = this.covering;
    const picture = this.behind.picture;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.useProgram(this.covering.made);
    gl.uniform4fv(uniforms.window, place);
    gl.uniform2f(uniforms.screen, canvas.width, canvas.height);
    gl.uniform2f(uniforms.size, avatar.width, avatar.height);
    gl.uniform4fv(uniforms.color, this.behind.color);
    gl.uniform1i(uniforms.hasPicture, picture ? 1 : 0);
    const person = this.person.colors; // every sampler needs a texture, wanted or not
    this.bind(this.covering, gl.TEXTURE_2D, { person, picture: picture || this.splats[0] });
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** Puts a color behind the person. @param {number[]} color r, g, b, opacity in [0, 1] */
  showColor([r, g, b, opacity]) {
    this.forgetPicture();
    const color = [r * opacity, g * opacity, b * opacity, opacity];
    this.behind = { color, picture: null, image: null };
  }

  /**
   * Puts a picture behind the person, stretched over the avatar's.
   * @param {Uint8Array} pixels r, g, b of a pixel after another, row by row from the top
   */
  showPicture(pixels, width, height) {
    const { gl } = this;
    this.forgetPicture();
    const picture = texture(gl, gl.RGB8, width, height, gl.LINEAR);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, width, height, gl.RGB, gl.UNSIGNED_BYTE, pixels);
    this.behind = { color: [0, 0, 0, 0], picture, image: [pixels, width, height] };
  }

  forgetPicture() {
    if (this.behind.picture) this.gl.deleteTexture(this.behind.picture);
  }

  /** What was drawn last: r, g, b, alpha row by row from the top; only right after `draw`. */
  pixels() {
    const { gl, canvas } = this, { width, height } = canvas;
    const rows = new Uint8Array(4 * width * height), turned = new Uint8Array(rows.length);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, rows);
    for (let y = 0; y < height; y++) {
      turned.set(rows.subarray(4 * width * y, 4 * width * (y + 1)), 4 * width * (height - 1 - y));
    }
    return turned;
  }

  /** Makes room for the blended person. */
  resize(width, height) {
    const { gl, person } = this;
    if (person && person.width === width && person.height === height) return;
    if (person) {
      [person.blended, person.closed].forEach((each) => gl.deleteFramebuffer(each));
      gl.deleteTexture(person.colors);
      gl.deleteRenderbuffer(person.depth);
    }
    const colors = texture(gl, gl.RGBA16F, width, height), depth = gl.createRenderbuffer();
    gl.bindRenderbuffer(gl.RENDERBUFFER, depth);
    gl.renderbufferStorage(gl.RENDERBUFFER, gl.DEPTH_COMPONENT16, width, height);
    const [blended, closed] = [target(gl, [colors], depth), target(gl, [], depth)];
    this.person = { width, height, colors, depth, blended, closed };
  }

  bind(made, kind, textures) {
    const { gl } = this;
    Object.entries(textures).forEach(([name, texture], unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(kind, texture);
      gl.uniform1i(made.uniforms[name], unit);
    });
  }

}

/** The numbers that a Gaussian has at codes 0, as `form` orders them, and its skin. */
function atRest({ means, logScales, quats, opacities, firstHarmonics, skins }) {
  const parts = [[means, 3], [logScales, 3], [quats, 4], [opacities, 1], [firstHarmonics, 3],
    [skins, 1]];
  const places = parts.flatMap(([array, width]) =>
    Array.from({ length: width }, (_, k) => [array, width, k]));
  return (_, i, n) => {
    const [array, width, k] = places[i];
    return array[width * n + k];
  };
}
