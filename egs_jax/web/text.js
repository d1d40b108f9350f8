// Bytes that lie in a page as text of 7 bits a character: a seventh longer than the bytes, where
// base 64 is a third longer. The twin of `as_text` in egs_jax/avatar/page.py. Before: an element;
// after: talk.js.

// What an HTML parser would change or end the element by (NUL, CR, <), and what stands for it.
const STANDS_FOR = { 0xa1: 0x00, 0xa2: 0x0d, 0xa3: 0x3c };

/** @param {string} text @returns {Uint8Array} whole bytes; the rest of a last one is dropped */
export function bytesOf(text) {
  const bytes = new Uint8Array(Math.floor((7 * text.length) / 8));
  let bits = 0, have = 0, at = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    bits = ((bits << 7) | (code < 128 ? code : STANDS_FOR[code])) & 0x7fff;
    have += 7;
    if (have >= 8) {
      have -= 8;
      bytes[at++] = bits >> have;
    }
  }
  return bytes;
}

/** Unpacks bytes of a zlib stream. @param {Uint8Array} bytes @returns {Promise<Uint8Array>} */
export async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
