// Draws an avatar with WebGL2, as codes and poses move it.
//
// `move` computes all splats of a moment, once for however many pictures. `draw` blends them, the
// nearest first, into 16-bit floats: color times what is still seen through, and that share itself.
// Pixels through which less than 1/1024 is seen are closed: of an avatar of 25,000 three splats in
// four lie behind such. Patterns stay on the GPU; a frame sends it 2.5 KB of weights, and 4 bytes a
// Gaussian when their order changed. Before: shaders.js; after: player.js.

import { FORM } from "./avatar.js";
import { quatOf } from "./poses.js";
import {
  CLOSE_FRAGMENTS, COVER_FRAGMENTS, COVER_VERTICES, ROW, SPLAT_FRAGMENTS, SPLAT_VERTICES,
  moveFragments,
} from "./shaders.js";

const FORM_TEXELS = 4;
const CHUNKS = 12; // after each of which pixels that are opaque are closed

/** @typedef {{scale: number, x: number, y: number}} Window picture's pixels -> screen's */

export class Renderer {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./avatar.js").Avatar} avatar
   */
  constructor(canvas, avatar) {
    const gl = canvas.getContext("webgl2", { alpha: true, antialias: false, depth: false });
    if (!gl) throw new Error("this browser has no WebGL2");
    if (!gl.getExtension("EXT_color_buffer_float")) {
      throw new Error("this browser's WebGL2 cannot draw to float textures");
    }
    Object.assign(this, { gl, canvas, avatar });
    this.rows = Math.ceil(avatar.count / ROW);
    this.groups = Math.ceil((avatar.harmonics - 1) / 4);
    const most = gl.getParameter(gl.MAX_ARRAY_TEXTURE_LAYERS);
    if (FORM_TEXELS * avatar.codes > most) throw new Error(`more than ${most} layers of codes`);
    this.moving = program(gl, COVER_VERTICES, moveFragments(avatar));
    this.splatting = program(gl, SPLAT_VERTICES, SPLAT_FRAGMENTS);
    this.closing = program(gl, COVER_VERTICES, CLOSE_FRAGMENTS);
    this.covering = program(gl, COVER_VERTICES, COVER_FRAGMENTS);
    this.sendAvatar();
    this.splats = [0, 1, 2].map(() => this.texture(gl.RGBA32F, ROW, this.rows));
    this.moved = this.target(this.splats);
    this.order = this.texture(gl.R32UI, ROW, this.rows);
    this.places = new Uint32Array(ROW * this.rows);
    this.ordered = 0; // how many Gaussians have an order
    this.quads = this.twoTriangles(avatar.count);
    this.behind = { color: [0, 0, 0, 0], picture: null };
    this.showPicture(avatar.plate, avatar.width, avatar.height);
  }

  /** Sends what no frame changes. */
  sendAvatar() {
    const { gl, avatar, rows } = this, { count, harmonics, codes, shineCodes } = avatar;
    const at = (array, width) => (n, i) => array[width * n + i];
    const [mean, scale, quat, first] = [
      at(avatar.means, 3), at(avatar.logScales, 3), at(avatar.quats, 4),
      at(avatar.firstHarmonics, 3),
    ];
    const cloud = (i, n) =>
      i < 3 ? mean(n, i) : i < 6 ? scale(n, i - 3) : i < 10 ? quat(n, i - 6)
        : i === 10 ? avatar.opacities[n] : i < FORM ? first(n, i - 11) : avatar.skins[n];
    this.arrays = { cloud: this.layers(gl.RGBA32F, gl.RGBA, gl.FLOAT,
      layered(new Float32Array(4 * FORM_TEXELS * ROW * rows), FORM + 1, 1, count, rows,
        (_, i, n) => cloud(i, n))) };
    this.arrays.form = this.layers(gl.RGBA8I, gl.RGBA_INTEGER, gl.BYTE,
      layered(new Int8Array(4 * FORM_TEXELS * codes * ROW * rows), FORM, codes, count, rows,
        (k, i, n) => avatar.formCounts[(k * FORM + i) * count + n]));
    if (this.groups) {
      const more = 3 * (harmonics - 1), texels = 3 * this.groups;
      this.arrays.harmonic = this.layers(gl.RGBA16F, gl.RGBA, gl.HALF_FLOAT,
        layered(new Uint16Array(4 * texels * ROW * rows), more, 1, count, rows,
          (_, i, n) => avatar.sh[3 * harmonics * n + 3 + i], texels));
      this.arrays.shine = this.layers(gl.RGBA8I, gl.RGBA_INTEGER, gl.BYTE,
        layered(new Int8Array(4 * texels * shineCodes * ROW * rows), more, shineCodes, count, rows,
          (k, i, n) => avatar.shineCounts[(k * more + i) * count + n], texels));
    }
    const weights = FORM_TEXELS * codes + 3 * this.groups * shineCodes + 1;
    this.weights = new Float32Array(4 * weights);
    this.weightBuffer = gl.createBuffer();
    gl.bindBuffer(gl.UNIFORM_BUFFER, this.weightBuffer);
    gl.bufferData(gl.UNIFORM_BUFFER, this.weights.byteLength, gl.DYNAMIC_DRAW);
    gl.uniformBlockBinding(this.moving.made, gl.getUniformBlockIndex(this.moving.made, "Weights"), 0);
  }

  /**
   * Moves all Gaussians.
   * @param {Float32Array} codes
   * @param {{head: Pose, body: Pose, view: Pose}} placed of poses.js
   */
  move(codes, placed) {
    const { gl, avatar } = this, { uniforms } = this.moving;
    this.weigh(codes);
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
      for (let i = 0; k < avatar.shineCodes && i < more; i++) {
        weights[shine + numbers * k + i] = code * avatar.shineSteps[more * k + i];
      }
    });
    gl.bindBuffer(gl.UNIFORM_BUFFER, this.weightBuffer);
    gl.bufferSubData(gl.UNIFORM_BUFFER, 0, weights);
  }

  /** Takes the order to draw in. @param {Uint32Array} order Gaussians, the nearest first */
  arrange(order) {
    const { gl } = this;
    this.places.set(order);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.order);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ROW, this.rows, gl.RED_INTEGER, gl.UNSIGNED_INT, this.places);
    this.ordered = order.length;
  }

  /** Draws what was moved last, over all of the canvas. @param {Window} window */
  draw(window) {
    const { gl, canvas } = this, { width, height } = canvas;
    this.resize(width, height);
    gl.viewport(0, 0, width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.person.target);
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
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.person.target);
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
    this.bind(this.closing, gl.TEXTURE_2D, { person: this.person.texture });
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
    const person = this.person.texture; // every sampler needs a texture, wanted or not
    this.bind(this.covering, gl.TEXTURE_2D, { person, picture: picture || this.splats[0] });
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** Puts a color behind the person. @param {number[]} color r, g, b, opacity in [0, 1] */
  showColor([r, g, b, opacity]) {
    this.forgetPicture();
    this.behind = { color: [r * opacity, g * opacity, b * opacity, opacity], picture: null };
  }

  /**
   * Puts a picture behind the person, stretched over the avatar's.
   * @param {Uint8Array} pixels r, g, b of a pixel after another, row by row from the top
   */
  showPicture(pixels, width, height) {
    const { gl } = this;
    this.forgetPicture();
    const picture = this.texture(gl.RGB8, width, height, gl.LINEAR);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, width, height, gl.RGB, gl.UNSIGNED_BYTE, pixels);
    this.behind = { color: [0, 0, 0, 0], picture };
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
      [person.target, person.closed].forEach((target) => gl.deleteFramebuffer(target));
      gl.deleteTexture(person.texture);
      gl.deleteRenderbuffer(person.depth);
    }
    const texture = this.texture(gl.RGBA16F, width, height), depth = gl.createRenderbuffer();
    gl.bindRenderbuffer(gl.RENDERBUFFER, depth);
    gl.renderbufferStorage(gl.RENDERBUFFER, gl.DEPTH_COMPONENT16, width, height);
    const [target, closed] = [this.target([texture], depth), this.target([], depth)];
    this.person = { width, height, texture, depth, target, closed };
  }

  /** Vertices 4 n to 4 n + 3 as two triangles. Instances of four would each be a draw to some GPUs. */
  twoTriangles(count) {
    const { gl } = this, quads = gl.createVertexArray(), corners = [0, 1, 2, 2, 1, 3];
    gl.bindVertexArray(quads);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    const vertices = Uint32Array.from({ length: 6 * count }, (_, i) =>
      4 * Math.floor(i / 6) + corners[i % 6]);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, vertices, gl.STATIC_DRAW);
    gl.bindVertexArray(null);
    return quads;
  }

  bind(made, kind, textures) {
    const { gl } = this;
    Object.entries(textures).forEach(([name, texture], unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(kind, texture);
      gl.uniform1i(made.uniforms[name], unit);
    });
  }

  texture(format, width, height, filter = this.gl.NEAREST) {
    const { gl } = this, texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, height);
    smooth(gl, gl.TEXTURE_2D, filter);
    return texture;
  }

  layers(format, order, type, data) {
    const { gl } = this, texture = gl.createTexture(), count = data.length / (4 * ROW * this.rows);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D_ARRAY, texture);
    gl.texStorage3D(gl.TEXTURE_2D_ARRAY, 1, format, ROW, this.rows, count);
    gl.texSubImage3D(gl.TEXTURE_2D_ARRAY, 0, 0, 0, 0, ROW, this.rows, count, order, type, data);
    smooth(gl, gl.TEXTURE_2D_ARRAY, gl.NEAREST);
    return texture;
  }

  target(textures, depth = null) {
    const { gl } = this, target = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, target);
    const places = textures.map((texture, i) => {
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, gl.TEXTURE_2D, texture, 0);
      return gl.COLOR_ATTACHMENT0 + i;
    });
    gl.drawBuffers(places.length ? places : [gl.NONE]);
    if (depth) {
      gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.RENDERBUFFER, depth);
    }
    return target;
  }
}

/** Numbers `value(set, i, n)` of every Gaussian, four to a texel, as layers of a texture. */
function layered(into, numbers, sets, count, rows, value, texels = FORM_TEXELS) {
  for (let set = 0; set < sets; set++) {
    for (let i = 0; i < numbers; i++) {
      const first = 4 * ROW * rows * (texels * set + (i >> 2)) + (i & 3);
      for (let n = 0; n < count; n++) into[first + 4 * n] = value(set, i, n);
    }
  }
  return into;
}

function smooth(gl, kind, filter) {
  gl.texParameteri(kind, gl.TEXTURE_MIN_FILTER, filter);
  gl.texParameteri(kind, gl.TEXTURE_MAG_FILTER, filter);
  gl.texParameteri(kind, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(kind, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
}

function program(gl, vertices, fragments) {
  const made = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertices], [gl.FRAGMENT_SHADER, fragments]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
      throw new Error(`a shader does not compile: ${gl.getShaderInfoLog(shader)}`);
    }
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(`shaders do not fit: ${gl.getProgramInfoLog(made)}`);
  }
  const uniforms = {};
  for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
    const { name } = gl.getActiveUniform(made, i);
    uniforms[name] = gl.getUniformLocation(made, name);
  }
  return { made, uniforms };
}
