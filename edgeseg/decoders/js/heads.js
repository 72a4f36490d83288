// SPDX-License-Identifier: Apache-2.0
// From tensors to detections before suppression: every head layout, float or integer.
//
// Scores are compared first, in the tensor's own numbers. That comparison lets a hair too much through; the survivors' float32
// scores then decide.

import { AGAIN, EdgesegError, f32, rint } from "./manifest.js";
import { Table, prototypeOf } from "./tensors.js";

const MARGIN = 1e-3; // by how much the first comparison is more generous than the threshold
const MOST = 30_000; // candidates, the best

const sigmoid = (x) => f32(1 / (1 + Math.exp(-x)));

// Sigmoid reaches 1 in float32 near 17; below 1e-30 everything counts.
const logit = (p) => (p < 1e-30 ? -70 : p > 1 - 1e-7 ? 16 : Math.log(p / (1 - p)));

/** Candidates of one score table: the first best class of each cell, or every class. */
function survivors(found, level, table, threshold, conf, multiLabel, scoreOf) {
  const { data, channels, step, cells, first } = table, least = table.least(threshold);
  const seen = new Uint8Array(cells); // in the order of memory, which is faster than that of cells
  for (let i = 0, p = table.base; i < (first ? channels : cells); i++, p += first ? step : table.cellStep) {
    for (let j = 0, end = first ? cells : channels; j < end; j++) if (data[p + j] >= least) seen[first ? j : i] = 1;
  }
  for (let cell = 0; cell < cells; cell++) {
    if (!seen[cell]) continue;
    const base = table.base + cell * table.cellStep;
    let kind = -1, best = -Infinity;
    for (let c = 0; c < channels; c++) {
      const value = data[base + c * step];
      if (multiLabel) {
        if (value >= least && scoreOf(table.real(value)) >= conf) found.add(level, cell, c, scoreOf(table.real(value)));
      } else if (value > best || kind < 0) {
        [kind, best] = [c, value];
      } else if (Number.isNaN(value)) best = NaN; // a cell with a NaN has no best class
    }
    if (!multiLabel && best >= least) {
      const score = scoreOf(table.real(best));
      if (score >= conf) found.add(level, cell, kind, score);
    }
  }
}

function byRole(images, fail) {
  const found = Object.fromEntries(images.map((image) => [image.spec.role, image]));
  if (Object.keys(found).length !== images.length) fail();
  return found;
}

const sameKeys = (object, keys) => Object.keys(object).length === keys.length && keys.every((key) => key in object);

/** The `raw` head: box, score and coefficient maps by stride. */
function decodeRaw(images, m, found, conf, multiLabel) {
  const fail = () => { throw new EdgesegError("the manifest's outputs are no raw head", AGAIN); };
  const protos = images.filter((image) => image.spec.role === "proto"), maps = new Map();
  const proto = protos.length ? prototypeOf(protos[protos.length - 1]) : null;
  for (const image of images) {
    const stride = image.spec.stride ?? 0;
    if (image.spec.role !== "proto") maps.set(stride, [...(maps.get(stride) ?? []), image]);
  }
  const wanted = { box: 4 * m.reg_max, score: m.names.length, ...(proto ? { coeff: proto.k } : {}) };
  if (!maps.size || (proto === null) !== (m.task === "detect")) fail();
  const strides = [...maps.keys()].sort((a, b) => a - b);
  const levels = strides.map((stride) => {
    const roles = byRole(maps.get(stride), fail);
    if (!sameKeys(roles, Object.keys(wanted))) fail();
    const tables = Object.entries(wanted).map(([role, channels]) => [role, new Table(roles[role], channels)]);
    if (tables.some(([, table]) => table.cells !== tables[0][1].cells)) fail();
    return Object.fromEntries(tables);
  });
  levels.forEach(({ score }, i) => survivors(found, i, score, logit(conf) - MARGIN, f32(conf), multiLabel, sigmoid));
  found.best(MOST);
  const bins = new Float64Array(m.reg_max);
  for (let i = 0; i < found.count; i++) {
    const { box } = levels[found.level[i]], cell = found.cell[i], stride = strides[found.level[i]];
    const at = [(cell % box.width) + 0.5, Math.floor(cell / box.width) + 0.5];
    for (let side = 0; side < 4; side++) {
      const distance = expected(box, cell, side * m.reg_max, bins);
      found.box[4 * i + side] = f32(f32(at[side % 2] + (side < 2 ? -distance : distance)) * stride);
    }
  }
  return { proto, coeffs: levels.map((level) => level.coeff) };
}

// Expected distance of a discrete distribution over bins 0, 1, 2, ... (DFL, Li et al. 2020, "Generalized Focal Loss").
function expected(table, cell, start, bins) {
  if (bins.length === 1) return table.at(cell, start);
  let top = -Infinity, sum = 0, weighted = 0;
  for (let b = 0; b < bins.length; b++) {
    bins[b] = table.at(cell, start + b);
    top = Math.max(top, bins[b]);
  }
  for (let b = 0; b < bins.length; b++) {
    const e = Math.exp(bins[b] - top);
    sum += e;
    weighted += e * b;
  }
  return f32(weighted / sum);
}

/** Input pixels per unit of a box's coordinates, x and y. */
function unitOf(m, proto) {
  if (!m.normalized_boxes) return [1, 1];
  return m.dynamic && proto ? [4 * proto.w, 4 * proto.h] : [m.imgsz[1], m.imgsz[0]];
}

/** The `decoded` head: box, score and coefficients of every cell in one tensor, or each apart. */
function decodeDecoded(images, m, found, conf, multiLabel) {
  const fail = () => { throw new EdgesegError("the manifest's outputs are no decoded head", AGAIN); };
  const roles = byRole(images, fail), detect = m.task === "detect", nc = m.names.length;
  const masks = detect ? [] : ["proto"], whole = sameKeys(roles, ["prediction", ...masks]);
  if (!whole && !sameKeys(roles, ["box", "score", ...masks, ...(detect ? [] : ["coeff"])])) fail();
  const proto = detect ? null : prototypeOf(roles.proto), k = proto?.k ?? 0;
  const table = whole ? new Table(roles.prediction, 4 + nc + k) : null;
  const box = table?.part(0, 4) ?? new Table(roles.box, 4);
  const score = table?.part(4, 4 + nc) ?? new Table(roles.score, nc);
  const coeff = table?.part(4 + nc, 4 + nc + k) ?? (detect ? null : new Table(roles.coeff, k));
  for (const { cells } of [score, ...(coeff ? [coeff] : [])]) if (cells !== box.cells) fail();
  const threshold = m.score_logits ? logit(conf) - MARGIN : conf - MARGIN * Math.max(conf, 1e-6);
  // A coarse scale or a half-precision sigmoid may overshoot 1.
  survivors(found, 0, score, threshold, f32(conf), multiLabel, m.score_logits ? sigmoid : (x) => Math.min(x, 1));
  found.best(MOST);
  const unit = unitOf(m, proto);
  for (let i = 0; i < found.count; i++) {
    const [a, b, c, d] = [0, 1, 2, 3].map((side) => f32(box.at(found.cell[i], side) * unit[side % 2]));
    const half = [f32(c * 0.5), f32(d * 0.5)];
    found.box.set(m.boxes === "xyxy" ? [a, b, c, d] : [a - half[0], b - half[1], a + half[0], b + half[1]], 4 * i);
  }
  return { proto, coeffs: [coeff] };
}

/** The `nms` head, rows that the model itself suppressed: x1, y1, x2, y2, score, class, coefficients; unused have score 0. */
function decodeNms(images, m, found, conf) {
  const fail = () => { throw new EdgesegError("the manifest's outputs are no head after NMS", AGAIN); };
  const roles = byRole(images, fail);
  if (!sameKeys(roles, m.task === "detect" ? ["prediction"] : ["prediction", "proto"])) fail();
  const proto = roles.proto ? prototypeOf(roles.proto) : null;
  const table = new Table(roles.prediction, 6 + (proto?.k ?? 0)), unit = unitOf(m, proto);
  for (let cell = 0; cell < table.cells; cell++) {
    const score = table.at(cell, 4), kind = rint(table.at(cell, 5));
    if (score >= f32(conf) && score > 0 && kind >= 0 && kind < m.names.length) found.add(0, cell, kind, score);
  }
  found.best(MOST);
  for (let i = 0; i < found.count; i++) {
    for (let side = 0; side < 4; side++) found.box[4 * i + side] = table.at(found.cell[i], side) * unit[side % 2];
  }
  return { proto, coeffs: [table.part(6, table.channels)] };
}

export const HEADS = { raw: decodeRaw, decoded: decodeDecoded, nms: decodeNms };
