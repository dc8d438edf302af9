// A decoder-only language model as one call: all layers of a few new tokens, over preallocated buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/aligned.h"
#include "ops/layout.h"
#include "ops/select.h"

namespace rarefy::decoder {

// RMS norm, or layer norm with a bias that may be null. weight null: no norm at all.
struct Norm {
  bool rms;
  const float *weight, *bias;
  float eps;
};

// The layout of the smallest token count that is not exceeded (the last, beyond all).
struct Choice {
  std::ptrdiff_t tokens;
  const Layout* layout;
};

// select: which inputs it looks at. rest: none, or two layers (in to rank, rank to out) through which the inputs go that it
// does not look at; what they give is added before the activation.
struct Linear {
  std::vector<Choice> choices;
  const float* bias;
  Activation activation;
  Select select;
  std::vector<Linear> rest;

  const Layout& at(std::ptrdiff_t tokens) const noexcept;
  int out() const noexcept { return choices[0].layout->out(); }
  int in() const noexcept { return choices[0].layout->in(); }
};

// Layers of one input whose rows follow each other; several where they do not look at the same of it.
using Stacked = std::vector<Linear>;
int rows_of(const Stacked& linears) noexcept;

// A choice of neurons or heads that is made where a norm gives x and used later: the `keep` targets with the largest logits,
// each of `spread` features, into mask `slot`. net: one layer, or two. full: where above 0, all rows of a batch get the union
// over it, and everything once that is so large a share.
struct Foresight {
  Stacked net;
  int keep, spread, slot;
  float full;
};
inline constexpr int mask_slots = 4;

// qkv: rows of all query heads, then key heads, then value heads. up: (features), or with `gated` gate's rows, then up's,
// and the activation is the gate's. q_norm, k_norm: an RMS norm of each head, or no weight. hidden: which neurons are used
// behind the activation; with `gated` up is then two layers, the gate with its activation, and the other's rows of neurons
// that no token uses are not computed where its layout can do so. turn: what the residual stream is multiplied by before the
// block, mlp_turn: what the second norm gives is; none, or one layer (width to width).
struct Block {
  Stacked turn;
  Norm attention_norm;
  Stacked qkv;
  Norm q_norm, k_norm;
  float scale;
  Linear out;
  Norm mlp_norm;
  Stacked mlp_turn;
  std::vector<Foresight> attention_foresights, mlp_foresights;  // what is chosen from what the first and the second norm give
  Stacked up;
  bool gated;
  Activation activation;
  Select hidden;
  Linear down;
};

struct Model {
  int width, heads, kv_heads, depth;
  const float* embedding;  // (vocabulary, width)
  int vocabulary;
  const float* positions;  // (position_rows, width) that is added to the embedding, or null
  std::ptrdiff_t position_rows, position_offset;
  std::vector<Block> blocks;
  Stacked turn;  // before the last norm
  Norm final_norm;
  Linear head;
};

// What time went on in a call, in nanoseconds, added up: see `Part`.
enum Part { embedding = 0, norms, qkv, rotary, attention, out, up, gate, down, head, turn, foresight, parts };

// One call: `tokens` new tokens for each of `batch` rows, behind `past` cached ones.
struct Step {
  std::ptrdiff_t batch;
  int tokens, past, capacity;
  const std::int64_t *ids, *positions;  // (batch, tokens)
  const float *cosine, *sine;           // (rotary_rows, depth / 2) by position, or null
  std::ptrdiff_t rotary_rows;
  float* keys;    // (layers, batch, kv_heads, capacity / 16, depth, 16), capacity a multiple of 16
  float* values;  // (layers, batch, kv_heads, capacity, depth)
  const unsigned char* allowed;  // (batch, capacity), 0 = hidden, or null
  const int* first;              // (batch): keys before are hidden, or null
  bool last_only;                // logits of the last token of each row only
  float* logits;                 // (batch, tokens or 1, vocabulary)
  std::int64_t* nanoseconds;     // (parts), or null
};

// Memory that a call works in: grows to the largest call and then stays. One call at a time.
class Workspace {
 public:
  struct Buffers {
    float *hidden, *normed, *delta, *qkv, *attended, *wide, *selected, *piece;
    float *rest, *inner, *added;  // of a layer with a `rest`: its input, what lies between its two layers, what it adds
    float *narrow, *logits;       // of a foresight
    unsigned char* masks;         // (mask_slots, rows, mask_width)
    std::ptrdiff_t mask_width;
  };
  Buffers reserve(const Model& model, std::ptrdiff_t rows);
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  Scratch block_;
  std::size_t bytes_ = 0;
};

// Throws std::invalid_argument for an id, a position or a cache size out of range, before anything is written.
void step(const Model& model, Workspace& workspace, const Step& call, int threads);

}  // namespace rarefy::decoder
