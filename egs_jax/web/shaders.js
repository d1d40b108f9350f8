// The programs that draw an avatar: codes move Gaussians, Gaussians become splats, splats cover one
// another and what is behind them. The same pictures as `kernels.rasterize` draws (its rules are
// said at each line that follows one). Before: avatar.js, poses.js; after: renderer.js.
//
// What a frame costs with N = 25,000 Gaussians, 32 codes and harmonics of degree 3, of which 2
// codes move the further ones, in a picture of 512 x 512 (counted; "number": one multiply-add or
// the like):
//
//   move   a Gaussian 128 + 24 texels of counts, 4 bytes each, and 4 + 12 of the cloud, 16 and 8:
//          768 bytes read, 48 written: 20 MB. 152 x (4 conversions + 4 multiply-adds) and some 400
//          numbers of projection and harmonics: 1,600, together 40 million.
//   splat  4 corners x 3 texels of 16 bytes and one of 4: 5 MB. Then each pixel under a splat: 12
//          numbers, and 8 bytes read and written by blending. Of two avatars of 25,000, 106 and 168
//          splats lie over a pixel; 36 and 76 are computed, the others fail the depth test: at most
//          20 million fragments, 240 million numbers, 320 MB from and to a target of 2 MB, which
//          lies in a cache.
//   close  16 times a pixel, 8 bytes read: 4 million fragments, 34 MB.
//   cover  a pixel 8 + 4 bytes read, 4 written: 4 MB.
//
// At 60 frames a second that is 1.4 billion fragments and 17 billion numbers a second. An
// integrated GPU of 2017 (24 units of 8 lanes, 1 GHz) blends 4 billion and computes 190 billion;
// the patterns are a seventh of the numbers. This is a count; what was measured is in the README of
// this folder.

export const ROW = 256; // Gaussians in a row of a texture

/** Draws what is given over all of the target. */
export const COVER_VERTICES = `#version 300 es
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  gl_Position = vec4(4.0 * corner - 1.0, -1.0, 1.0);
}`;

/**
 * Codes and poses -> one splat a Gaussian; each fragment is one Gaussian.
 * @param {import("./avatar.js").Avatar} avatar
 * @param {import("./lens.js").Lens?} lens what it shows instead of the picture
 */
export function moveFragments({ codes, shineCodes, harmonics, count }, lens) {
  const groups = Math.ceil((harmonics - 1) / 4); // of four harmonics, 12 numbers, 3 texels
  return `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2DArray;
precision highp isampler2DArray;
#define GROUPS ${groups}
const int COUNT = ${count}, CODES = ${codes}, SHINE_CODES = ${shineCodes}, HARMONICS = ${harmonics};
const float NEAR = 0.2, BLUR = 0.3, ALPHA_MIN = 1.0 / 255.0;

uniform sampler2DArray cloud;     // 4 texels a Gaussian: means, log-scales, quaternion, opacity,
                                  // first harmonic, skin
uniform isampler2DArray form;     // 4 texels a code
uniform sampler2DArray harmonic;  // 3 texels a group
uniform isampler2DArray shine;    // 3 texels a group, a code
layout(std140) uniform Weights { vec4 weights[${4 * codes + 3 * groups * shineCodes + 1}]; };
uniform mat3 headTurn, bodyTurn, viewTurn;
uniform vec3 headShift, bodyShift, viewShift, eye;  // eye: the camera in the world
uniform vec4 headQuat, bodyQuat;  // w, x, y, z in one hemisphere
uniform vec4 camera;              // fx, fy, cx, cy
uniform vec2 size;

layout(location = 0) out vec4 place;  // center, first half axis of the ellipse (1 sigma), pixels
layout(location = 1) out vec4 reach;  // second half axis, sigmas to its border, opacity
layout(location = 2) out vec4 color;

${lens?.declarations(codes) ?? ""}
vec4 quatProduct(vec4 r, vec4 q) {
  return vec4(
    r.x * q.x - dot(r.yzw, q.yzw),
    r.x * q.yzw + q.x * r.yzw + cross(r.yzw, q.yzw));
}

mat3 rotation(vec4 q) {  // columns
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

// Real spherical harmonics with the signs of 3DGS, but for the first.
float[16] basis(vec3 d) {
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  return float[16](
    -0.4886025 * y, 0.4886025 * z, -0.4886025 * x,
    1.0925484 * x * y, -1.0925484 * y * z, 0.3153916 * (2.0 * zz - xx - yy),
    -1.0925484 * x * z, 0.5462742 * (xx - yy),
    -0.5900436 * y * (3.0 * xx - yy), 2.8906114 * x * y * z,
    -0.4570458 * y * (4.0 * zz - xx - yy), 0.3731763 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy),
    -0.4570458 * x * (4.0 * zz - xx - yy), 1.4453057 * z * (xx - yy),
    -0.5900436 * x * (xx - 3.0 * yy), 0.0);
}

vec3 further(ivec2 at, vec3 direction) {
  vec3 sum = vec3(0.0);
#if GROUPS
  float[16] y = basis(direction);
  for (int group = 0; group < GROUPS; group++) {
    vec4 a = texelFetch(harmonic, ivec3(at, 3 * group), 0);
    vec4 b = texelFetch(harmonic, ivec3(at, 3 * group + 1), 0);
    vec4 c = texelFetch(harmonic, ivec3(at, 3 * group + 2), 0);
    for (int k = 0; k < SHINE_CODES; k++) {
      int layer = 3 * (GROUPS * k + group), weight = 4 * CODES + layer;
      a += weights[weight] * vec4(texelFetch(shine, ivec3(at, layer), 0));
      b += weights[weight + 1] * vec4(texelFetch(shine, ivec3(at, layer + 1), 0));
      c += weights[weight + 2] * vec4(texelFetch(shine, ivec3(at, layer + 2), 0));
    }
    sum += y[4 * group] * a.xyz + y[4 * group + 1] * vec3(a.w, b.xy)
      + y[4 * group + 2] * vec3(b.zw, c.x) + y[4 * group + 3] * c.yzw;
  }
#endif
  return sum;
}

void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  place = reach = color = vec4(0.0);
  if (at.y * ${ROW} + at.x >= COUNT) return;
  vec4 own[4];
  for (int i = 0; i < 4; i++) own[i] = texelFetch(cloud, ivec3(at, i), 0);
  for (int k = 0; k < 4 * CODES; k += 4) {
    for (int i = 0; i < 4; i++) {
      own[i] += weights[k + i] * vec4(texelFetch(form, ivec3(at, k + i), 0));
    }
  }
  vec3 mean = own[0].xyz, scales = exp(vec3(own[0].w, own[1].xy));
  vec4 quat = vec4(own[1].zw, own[2].xy);
  float opacity = 1.0 / (1.0 + exp(-own[2].z)), skin = own[3].z;

  // Head and body move it (model/skinning.py).
  mean = mix(headTurn * mean + headShift, bodyTurn * mean + bodyShift, skin);
  quat = normalize(quatProduct(mix(headQuat, bodyQuat, skin), quat));
  vec3 seen = viewTurn * mean + viewShift;
  if (seen.z < NEAR || opacity < ALPHA_MIN) return;

  // EWA: the covariance in pixels, of what is far beside the picture as at its edge.
  vec2 focal = camera.xy, middle = camera.zw, ratio = seen.xy / seen.z;
  vec2 center = focal * ratio + middle;
  ratio = clamp(ratio, -(middle + 0.15 * size) / focal, (1.15 * size - middle) / focal);
  mat3 axes = viewTurn * rotation(quat);
  for (int i = 0; i < 3; i++) axes[i] *= scales[i] / seen.z;
  mat3 rows = transpose(axes);
  vec3 across = focal.x * (rows[0] - ratio.x * rows[2]);
  vec3 down = focal.y * (rows[1] - ratio.y * rows[2]);
  float xx = dot(across, across) + BLUR, yy = dot(down, down) + BLUR, xy = dot(across, down);
  float half_ = 0.5 * (xx - yy), apart = sqrt(half_ * half_ + xy * xy);
  float larger = 0.5 * (xx + yy) + apart, smaller = max((xx * yy - xy * xy) / larger, BLUR);
  vec2 axis = half_ >= 0.0 ? vec2(half_ + apart, xy) : vec2(xy, apart - half_);
  axis = apart > 1e-6 * larger ? normalize(axis) : vec2(1.0, 0.0);

  // No cut at 3 sigma: where alpha falls under its least value is the border.
  float sigmas = sqrt(2.0 * log(opacity / ALPHA_MIN));
  place = vec4(center, sqrt(larger) * axis);
  reach = vec4(sqrt(smaller) * vec2(-axis.y, axis.x), sigmas, opacity);
  vec3 first = 0.2820948 * vec3(own[2].w, own[3].xy);
  color = vec4(max(first + further(at, normalize(mean - eye)) + 0.5, 0.0), 0.0);
  ${lens?.moved ?? ""}
}`;
}

/** Splats in the order of their depth: a parallelogram around each ellipse, of four vertices. */
export const SPLAT_VERTICES = `#version 300 es
precision highp float;
precision highp usampler2D;
uniform usampler2D order;
uniform sampler2D places, reaches, colors;
uniform vec4 window;  // picture's pixels -> screen's: scale, shift
uniform vec2 screen;
out vec2 sigmas;
flat out vec4 paint;
ivec2 texel(int number) {
  return ivec2(number % ${ROW}, number / ${ROW});
}
void main() {
  ivec2 at = texel(int(texelFetch(order, texel(gl_VertexID >> 2), 0).r));
  vec4 place = texelFetch(places, at, 0), reach = texelFetch(reaches, at, 0);
  vec2 corner = vec2(gl_VertexID & 1, (gl_VertexID >> 1) & 1) * 2.0 - 1.0;
  sigmas = reach.z * corner;
  paint = vec4(texelFetch(colors, at, 0).rgb, reach.w);
  vec2 seen = window.xy * (place.xy + sigmas.x * place.zw + sigmas.y * reach.xy) + window.zw;
  // What draws nothing is out of sight.
  gl_Position = reach.z > 0.0
    ? vec4(2.0 * seen.x / screen.x - 1.0, 1.0 - 2.0 * seen.y / screen.y, 0.0, 1.0)
    : vec4(2.0, 2.0, 2.0, 1.0);
}`;

/** @param {import("./lens.js").Lens?} lens */
export const splatFragments = (lens) => `#version 300 es
precision highp float;
in vec2 sigmas;
flat in vec4 paint;
out vec4 pixel;
${lens?.splatDeclarations ?? ""}
void main() {
  ${lens?.splat ?? ""}
  float alpha = paint.a * exp(-0.5 * dot(sigmas, sigmas));
  if (alpha < 1.0 / 255.0) discard;
  alpha = min(alpha, 0.99);
  pixel = vec4(alpha * paint.rgb, alpha);
}`;

/** Keeps further splats from pixels that are opaque: they fail the depth test there. */
export const CLOSE_FRAGMENTS = `#version 300 es
precision highp float;
uniform sampler2D person;
void main() {
  if (texelFetch(person, ivec2(gl_FragCoord.xy), 0).a > 1.0 / 1024.0) discard;
}`;

/**
 * Person over the plate, a color, a picture, or nothing (premultiplied).
 * @param {import("./lens.js").Lens?} lens
 */
export const coverFragments = (lens) => `#version 300 es
precision highp float;
uniform sampler2D person, picture;  // person: color, and the share of what is behind
uniform vec4 window;
uniform vec2 screen, size;
uniform vec4 color;
uniform bool hasPicture;
out vec4 pixel;
${lens?.coverDeclarations ?? ""}
void main() {
  vec4 drawn = texelFetch(person, ivec2(gl_FragCoord.xy), 0);
  vec2 place = (vec2(gl_FragCoord.x, screen.y - gl_FragCoord.y) - window.zw) / window.xy;
  vec4 behind = hasPicture ? vec4(texture(picture, place / size).rgb, 1.0) : color;
  vec4 both = vec4(drawn.rgb, 1.0 - drawn.a) + drawn.a * behind;
  pixel = vec4(min(both.rgb, both.a), both.a);
  ${lens?.cover ?? ""}
}`;
