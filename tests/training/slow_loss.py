"""The loss and the assignment once more, in plain loops over Python floats: slow and obviously right."""

from __future__ import annotations

import math


def ciou(a, b):
    """Complete IoU of two boxes, from the definition."""
    iw = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    ih = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inter = iw * ih
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    iou = inter / union
    cw = max(a[2], b[2]) - min(a[0], b[0])
    ch = max(a[3], b[3]) - min(a[1], b[1])
    d2 = ((a[0] + a[2]) / 2 - (b[0] + b[2]) / 2) ** 2 + ((a[1] + a[3]) / 2 - (b[1] + b[3]) / 2) ** 2
    v = 4 / math.pi**2 * (math.atan((b[2] - b[0]) / (b[3] - b[1])) - math.atan((a[2] - a[0]) / (a[3] - a[1]))) ** 2
    weight = v / (1 - iou + v) if v > 0 else 0.0
    return iou - d2 / (cw**2 + ch**2) - weight * v


def assign(scores, boxes, anchors, image, classes, truth, topk=10):
    """{(image, anchor): (instance, score target)} for nested lists."""
    claims = {}
    for t, box in enumerate(truth):
        ranked = []
        for n, (x, y) in enumerate(anchors):
            if box[0] < x < box[2] and box[1] < y < box[3]:
                u = max(0.0, ciou(box, boxes[image[t]][n]))
                ranked.append((scores[image[t]][n][classes[t]] ** 0.5 * u**6, u, n))
        ranked.sort(key=lambda r: -r[0])
        for metric, u, n in ranked[:topk]:
            if metric > 0:
                claims.setdefault((image[t], n), []).append((u, t, metric))
    owner = {}
    for place, wanted in claims.items():
        owner[place] = max(wanted, key=lambda c: (c[0], -c[1]))
    result = {}
    for place, (_, t, metric) in owner.items():
        mine = [c for c in owner.values() if c[1] == t]
        result[place] = (t, metric / max(c[2] for c in mine) * max(c[0] for c in mine))
    return result


def softmax(row):
    top = max(row)
    e = [math.exp(v - top) for v in row]
    return [v / sum(e) for v in e]


def bce(logit, goal):
    """Binary cross-entropy of one logit."""
    return max(logit, 0) - logit * goal + math.log1p(math.exp(-abs(logit)))


def decode(logits, anchor, stride):
    """xyxy of one anchor from its 4*16 logits."""
    bins = len(logits) // 4
    d = [sum(i * p for i, p in enumerate(softmax(logits[s * bins : (s + 1) * bins]))) * stride for s in range(4)]
    return [anchor[0] - d[0], anchor[1] - d[1], anchor[0] + d[2], anchor[1] + d[3]]


def loss(box, score, coeff, proto, anchors, strides, image, classes, truth, index_map, ordinals):
    """(box, mask, score, dfl) before gains, for nested lists."""
    batch, nc, bins = len(box), len(score[0][0]), len(box[0][0]) // 4
    boxes = [[decode(box[b][n], anchors[n], strides[n]) for n in range(len(anchors))] for b in range(batch)]
    sig = [[[1 / (1 + math.exp(-v)) for v in row] for row in s] for s in score]
    positive = assign(sig, boxes, anchors, image, classes, truth)
    norm = max(1.0, sum(s for _, s in positive.values()))
    score_sum = 0.0
    for b in range(batch):
        for n in range(len(anchors)):
            t, s = positive.get((b, n), (None, 0.0))
            for c in range(nc):
                score_sum += bce(score[b][n][c], s if t is not None and classes[t] == c else 0.0)
    box_sum = dfl_sum = mask_sum = 0.0
    for (b, n), (t, s) in positive.items():
        box_sum += (1 - ciou(boxes[b][n], truth[t])) * s
        ltrb = [
            anchors[n][0] - truth[t][0],
            anchors[n][1] - truth[t][1],
            truth[t][2] - anchors[n][0],
            truth[t][3] - anchors[n][1],
        ]
        for side, pixels in enumerate(ltrb):
            d = min(max(pixels / strides[n], 0.0), bins - 1 - 0.01)
            p = softmax(box[b][n][side * bins : (side + 1) * bins])
            low = math.floor(d)
            dfl_sum += -((low + 1 - d) * math.log(p[low]) + (d - low) * math.log(p[low + 1])) * s / 4
        cell = strides[0] / 2
        x1, y1, x2, y2 = (v / cell for v in truth[t])
        total = 0.0
        for r, line in enumerate(index_map[b]):
            for c, value in enumerate(line):
                if x1 <= c + 0.5 < x2 and y1 <= r + 0.5 < y2:
                    logit = sum(k * proto[b][j][r][c] for j, k in enumerate(coeff[b][n]))
                    total += bce(logit, 1.0 if value == ordinals[t] else 0.0)
        mask_sum += total / max(1.0, (x2 - x1) * (y2 - y1))
    return box_sum / norm, mask_sum / max(1, len(positive)), score_sum / norm, dfl_sum / norm
