// SPDX-License-Identifier: Apache-2.0
// Detections on their picture: translucent masks with an edge, boxes, labels; the surest on top.

const GOLDEN = 0.618034; // steps of the golden ratio around the circle of hues keep neighbouring classes apart

/** [red, green, blue] of a class, as in the pictures that `edgeseg predict` draws. */
export function colourOf(kind) {
  const hue = (0.02 + kind * GOLDEN) % 1, light = [0.56, 0.46, 0.66][Math.floor(kind / 7) % 3];
  const reach = 0.92 * Math.min(light, 1 - light);
  return [0, 8, 4].map((n) => {
    const at = (n + hue * 12) % 12;
    return Math.round(255 * (light - reach * Math.max(-1, Math.min(at - 3, 9 - at, 1))));
  });
}

/** Relative luminance 0..1 (WCAG 2, with a plain power as the curve): above 0.18 black reads better than white. */
const luminance = ([red, green, blue]) =>
  0.2126 * (red / 255) ** 2.2 + 0.7152 * (green / 255) ** 2.2 + 0.0722 * (blue / 255) ** 2.2;

function blend(pixels, { x, y, width, height, data }, [red, green, blue]) {
  const at = (i, j) => (i < 0 || j < 0 || i >= width || j >= height ? 0 : data[j * width + i]);
  for (let j = 0; j < height; j++) {
    for (let i = 0; i < width; i++) {
      if (!data[j * width + i]) continue;
      const edge = !(at(i - 1, j) && at(i + 1, j) && at(i, j - 1) && at(i, j + 1));
      const p = 4 * ((y + j) * pixels.width + x + i), share = edge ? 0.95 : 0.45;
      pixels.data[p] += (red - pixels.data[p]) * share;
      pixels.data[p + 1] += (green - pixels.data[p + 1]) * share;
      pixels.data[p + 2] += (blue - pixels.data[p + 2]) * share;
    }
  }
}

/** Draw `image` (ImageData) and what was found on it; `nameOf(class)` gives a name. */
export function draw(paper, image, { boxes, scores, classes, masks }, nameOf) {
  const pixels = new ImageData(new Uint8ClampedArray(image.data), image.width, image.height);
  // Letters and lines are of one size on the screen, whatever the picture's.
  const unit = image.width / (paper.canvas.clientWidth || image.width), worstFirst = [...scores.keys()].reverse();
  for (const i of worstFirst) if (masks) blend(pixels, masks[i], colourOf(classes[i]));
  paper.putImageData(pixels, 0, 0);
  paper.font = `${Math.round(14 * unit)}px system-ui, sans-serif`;
  paper.textBaseline = "top";
  paper.lineWidth = 1.6 * unit;
  for (const i of worstFirst) {
    const [x1, y1, x2, y2] = boxes.subarray(4 * i, 4 * i + 4), [red, green, blue] = colourOf(classes[i]);
    const label = `${nameOf(classes[i])} ${scores[i].toFixed(2)}`;
    const width = paper.measureText(label).width + 6 * unit, height = 19 * unit;
    const left = Math.max(0, Math.min(x1, image.width - width)), top = y1 >= height ? y1 - height : y1;
    paper.strokeStyle = paper.fillStyle = `rgb(${red}, ${green}, ${blue})`;
    paper.strokeRect(x1, y1, x2 - x1, y2 - y1);
    paper.fillRect(left, top, width, height);
    paper.fillStyle = luminance([red, green, blue]) > 0.18 ? "#000" : "#fff";
    paper.fillText(label, left + 3 * unit, top + 2.5 * unit);
  }
}
