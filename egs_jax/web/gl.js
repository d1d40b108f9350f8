// What WebGL2 needs many words for: programs, textures, targets. After: renderer.js.

import { ROW } from "./shaders.js";

/** @returns {{made: WebGLProgram, uniforms: Object<string, WebGLUniformLocation>}} */
export function program(gl, vertices, fragments) {
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

/** An empty texture of one size. */
export function texture(gl, format, width, height, filter = gl.NEAREST) {
  const made = gl.createTexture();
  gl.activeTexture(gl.TEXTURE0);
  gl.bindTexture(gl.TEXTURE_2D, made);
  gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, height);
  smooth(gl, gl.TEXTURE_2D, filter);
  return made;
}

/** Layers of a texel a Gaussian, filled. */
export function layers(gl, rows, format, order, type, data) {
  const made = gl.createTexture(), count = data.length / (4 * ROW * rows);
  gl.activeTexture(gl.TEXTURE0);
  gl.bindTexture(gl.TEXTURE_2D_ARRAY, made);
  gl.texStorage3D(gl.TEXTURE_2D_ARRAY, 1, format, ROW, rows, count);
  gl.texSubImage3D(gl.TEXTURE_2D_ARRAY, 0, 0, 0, 0, ROW, rows, count, order, type, data);
  smooth(gl, gl.TEXTURE_2D_ARRAY, gl.NEAREST);
  return made;
}

function smooth(gl, kind, filter) {
  gl.texParameteri(kind, gl.TEXTURE_MIN_FILTER, filter);
  gl.texParameteri(kind, gl.TEXTURE_MAG_FILTER, filter);
  gl.texParameteri(kind, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(kind, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
}

/**
 * Numbers of every Gaussian, four to a texel, as such layers.
 * @param {Float32Array | Int8Array | Uint16Array} into zeros
 * @param {number} texels layers of a set, of which there may be several
 * @param {number} numbers of a Gaussian in a set
 * @param {(set: number, i: number, n: number) => number} value number i of Gaussian n
 */
export function layered(into, rows, count, sets, texels, numbers, value) {
  for (let set = 0; set < sets; set++) {
    for (let i = 0; i < numbers; i++) {
      const first = 4 * ROW * rows * (texels * set + (i >> 2)) + (i & 3);
      for (let n = 0; n < count; n++) into[first + 4 * n] = value(set, i, n);
    }
  }
  return into;
}

/** What is drawn to: textures, and a depth buffer. */
export function target(gl, textures, depth = null) {
  const made = gl.createFramebuffer();
  gl.bindFramebuffer(gl.FRAMEBUFFER, made);
  const places = textures.map((each, i) => {
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, gl.TEXTURE_2D, each, 0);
    return gl.COLOR_ATTACHMENT0 + i;
  });
  gl.drawBuffers(places.length ? places : [gl.NONE]);
  if (depth) {
    gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.RENDERBUFFER, depth);
  }
  return made;
}

/** Vertices 4 n to 4 n + 3 as two triangles. Instances of four are each a draw to some GPUs. */
export function quads(gl, count) {
  const made = gl.createVertexArray(), corners = [0, 1, 2, 2, 1, 3];
  gl.bindVertexArray(made);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  const vertices = Uint32Array.from({ length: 6 * count }, (_, i) =>
    4 * Math.floor(i / 6) + corners[i % 6]);
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, vertices, gl.STATIC_DRAW);
  gl.bindVertexArray(null);
  return made;
}
