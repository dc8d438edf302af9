#include "ops/decoder.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>

#include "core/denormals.h"
#include "kernels/decode_attention/contract.h"
#include "kernels/elementwise/contract.h"
#include "kernels/gate/contract.h"
#include "kernels/norm/contract.h"
#include "kernels/rms/contract.h"
#include "kernels/rope/contract.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::decoder {
namespace {

constexpr int block_keys = decode_attention::block_keys;

void require(bool fine, const std::string& what) {
  if (!fine) throw std::invalid_argument("decoder step: " + what);
}

std::ptrdiff_t rows_of(const Step& call) { return call.batch * call.tokens; }

void check(const Model& model, const Step& call) {
  require(call.past >= 0 && call.tokens >= 0 && call.past + call.tokens <= call.capacity,
          std::to_string(call.past) + " + " + std::to_string(call.tokens) + " tokens do not fit into a cache of " +
              std::to_string(call.capacity));
  require(call.capacity % block_keys == 0, "the cache's capacity must be a multiple of 16");
  for (std::ptrdiff_t i = 0; i < rows_of(call); ++i) {
    require(call.ids[i] >= 0 && call.ids[i] < model.vocabulary, "token id " + std::to_string(call.ids[i]) +
                                                                     " is outside the vocabulary of " +
                                                                     std::to_string(model.vocabulary));
    const std::int64_t position = call.positions[i];
    require(position >= 0 && (call.cosine == nullptr || position < call.rotary_rows) &&
                (model.positions == nullptr || position + model.position_offset < model.position_rows),
            "position " + std::to_string(position) + " is beyond the model's table");
  }
}

// Adds the time since the last mark to a part.
class Clock {
 public:
  explicit Clock(std::int64_t* to) : to_(to) {
    if (to_ != nullptr) last_ = now();
  }
  void mark(Part part) {
    if (to_ == nullptr) return;
    const std::int64_t at = now();
    to_[part] += at - last_;
    last_ = at;
  }

 private:
  static std::int64_t now() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }
  std::int64_t* to_;
  std::int64_t last_ = 0;
};

// One call as it goes along.
struct Run {
  const Model& model;
  const Step& call;
  const Workspace::Buffers& at;
  Isa isa;
  int threads;
  Clock clock;

  std::ptrdiff_t qkv_width() const { return static_cast<std::ptrdiff_t>(model.heads + 2 * model.kv_heads) * model.depth; }
};

// f(row) for all rows, on several threads where there is enough to do.
template <class Function>
void each_row(const Run& run, std::ptrdiff_t rows, std::ptrdiff_t work_a_row, Function&& f) {
  const int threads = threads_for(static_cast<double>(rows) * static_cast<double>(work_a_row), run.threads);
  if (threads <= 1)
    for (std::ptrdiff_t row = 0; row < rows; ++row) f(row);
  else
    parallel_for(static_cast<std::size_t>(rows), threads, [&](std::size_t row) { f(static_cast<std::ptrdiff_t>(row)); });
}

void embed(Run& run) {
  const Model& m = run.model;
  for (std::ptrdiff_t row = 0; row < rows_of(run.call); ++row) {
    float* to = run.at.hidden + row * m.width;
    std::memcpy(to, m.embedding + run.call.ids[row] * m.width, sizeof(float) * m.width);
    if (m.positions == nullptr) continue;
    const float* from = m.positions + (run.call.positions[row] + m.position_offset) * m.width;
    for (int i = 0; i < m.width; ++i) to[i] += from[i];
  }
  run.clock.mark(Part::embedding);
}

// hidden += delta (where there is one), normed = norm(hidden).
void normalise(Run& run, const Norm& norm, bool with_delta, std::ptrdiff_t rows) {
  const int width = run.model.width;
  const float* delta = with_delta ? run.at.delta : nullptr;
  if (norm.weight != nullptr && norm.rms) {
    const rms::Rows r{run.at.hidden, delta, with_delta ? run.at.hidden : nullptr, norm.weight, run.at.normed, width, width,
                      norm.eps};
    const rms::Kernel& kernel = rms::kernel(run.isa);
    each_row(run, rows, 8 * width, [&](std::ptrdiff_t row) { kernel.add_rms_norm(r, row, row + 1); });
  } else {
    const norm::Kernel& kernel = norm::kernel(run.isa);
    const norm::Rows r{run.at.hidden, nullptr, 0, norm.weight, norm.bias, run.at.normed, width, norm.eps};
    each_row(run, rows, 8 * width, [&](std::ptrdiff_t row) {
      float* const hidden = run.at.hidden + row * width;
      for (int i = 0; with_delta && i < width; ++i) hidden[i] += delta[row * width + i];
      if (norm.weight != nullptr) kernel.add_layer_norm(r, row, row + 1);
      else std::memcpy(run.at.normed + row * width, hidden, sizeof(float) * width);
    });
  }
  run.clock.mark(Part::norms);
}

unsigned char* mask_of(const Run& run, int slot, std::ptrdiff_t row) {
  return run.at.masks + (slot * rows_of(run.call) + row) * run.at.mask_width;
}

// to (rows, width) = x where a mask names it, else 0; `to` may be x.
void keep_foreseen(const Run& run, int slot, const float* x, std::ptrdiff_t rows, int width, float* to) {
  each_row(run, rows, 8 * width, [&](std::ptrdiff_t row) {
    const unsigned char* const mask = mask_of(run, slot, row);
    for (std::ptrdiff_t j = row * width, i = 0; i < width; ++i, ++j) to[j] = mask[i] != 0 ? x[j] : 0.0f;
  });
}

// to (rows, width) = x where it is kept, else 0; `to` may be x.
void select_rows(const Run& run, const Select& by, const float* x, std::ptrdiff_t rows, int width, float* to) {
  each_row(run, rows, 8 * width, [&](std::ptrdiff_t row) { select(by, x + row * width, 1, width, to + row * width, run.isa); });
}

// What a layer looks at: x itself, or a copy with zeros.
const float* selected(const Run& run, const Linear& linear, const float* x, std::ptrdiff_t rows) {
  if (linear.select.kind == Select::Kind::all) return x;
  if (linear.select.kind == Select::Kind::foreseen) {
    keep_foreseen(run, linear.select.slot, x, rows, linear.in(), run.at.selected);
    return run.at.selected;
  }
  select_rows(run, linear.select, x, rows, linear.in(), run.at.selected);
  return run.at.selected;
}

// What a layer's rest makes of the inputs that were not kept, (rows, out), with the layer's bias.
const float* rest_of(const Run& run, const Linear& linear, const float* x, const float* kept, std::ptrdiff_t rows) {
  const Linear &narrow = linear.rest[0], &wide = linear.rest[1];
  const std::ptrdiff_t floats = rows * linear.in();
  for (std::ptrdiff_t i = 0; i < floats; ++i) run.at.rest[i] = x[i] - kept[i];
  narrow.at(rows).multiply(run.at.rest, rows, nullptr, Activation::none, run.at.inner, run.threads);
  wide.at(rows).multiply(run.at.inner, rows, linear.bias, Activation::none, run.at.added, run.threads);
  return run.at.added;
}

void multiply_one(const Run& run, const Linear& linear, const float* x, std::ptrdiff_t rows, float* y) {
  const float* const kept = selected(run, linear, x, rows);
  const Layout& layout = linear.at(rows);
  if (linear.rest.empty()) return layout.multiply(kept, rows, linear.bias, linear.activation, y, run.threads);
  const float* const added = rest_of(run, linear, x, kept, rows);
  if (rows == 1) return layout.multiply(kept, rows, added, linear.activation, y, run.threads);  // it is a bias then
  layout.multiply(kept, rows, nullptr, Activation::none, y, run.threads);
  const std::ptrdiff_t floats = rows * linear.out();
  for (std::ptrdiff_t i = 0; i < floats; ++i) y[i] += added[i];
  elementwise::kernel(run.isa).activate(linear.activation, y, floats, y);
}

void multiply(Run& run, const Linear& linear, const float* x, std::ptrdiff_t rows, float* y, Part part) {
  multiply_one(run, linear, x, rows, y);
  run.clock.mark(part);
}

void multiply(Run& run, const Stacked& linears, const float* x, std::ptrdiff_t rows, float* y, Part part) {
  const int width = rows_of(linears);
  int at = 0;
  for (const Linear& linear : linears) {
    const bool whole = rows == 1 || linear.out() == width;
    float* const to = whole ? y + at : run.at.piece;
    multiply_one(run, linear, x, rows, to);
    for (std::ptrdiff_t row = 0; row < rows && !whole; ++row)
      std::memcpy(y + row * width + at, to + row * linear.out(), sizeof(float) * linear.out());
    at += linear.out();
  }
  run.clock.mark(part);
}

// Masks of a token over all rows of the batch become their union, or everything.
void unite(const Run& run, const Foresight& by, int token, std::ptrdiff_t width) {
  static thread_local std::vector<unsigned char> all;
  const Step& call = run.call;
  all.assign(static_cast<std::size_t>(width), 0);
  for (std::ptrdiff_t b = 0; b < call.batch; ++b) {
    const unsigned char* const mask = mask_of(run, by.slot, b * call.tokens + token);
    for (std::ptrdiff_t j = 0; j < width; ++j) all[j] |= mask[j];
  }
  const auto count = std::count(all.begin(), all.end(), 1);
  if (static_cast<float>(count) / static_cast<float>(width) >= by.full) std::fill(all.begin(), all.end(), 1);
  for (std::ptrdiff_t b = 0; b < call.batch; ++b)
    std::memcpy(mask_of(run, by.slot, b * call.tokens + token), all.data(), all.size());
}

void foresee(Run& run, const std::vector<Foresight>& foresights, std::ptrdiff_t rows) {
  for (const Foresight& by : foresights) {
    const Linear& last = by.net.back();
    const float* x = run.at.normed;
    if (by.net.size() == 2) multiply_one(run, by.net[0], x, rows, run.at.narrow), x = run.at.narrow;
    multiply_one(run, last, x, rows, run.at.logits);
    for (std::ptrdiff_t row = 0; row < rows; ++row)
      likeliest(run.at.logits + row * last.out(), last.out(), by.keep, by.spread, mask_of(run, by.slot, row));
    for (int token = 0; by.full > 0.0f && token < run.call.tokens; ++token)
      unite(run, by, token, static_cast<std::ptrdiff_t>(last.out()) * by.spread);
    run.clock.mark(Part::foresight);
  }
}

// x (rows, width) = itself times a matrix, through the buffer of what is to be added to the stream: it holds nothing then.
void change_basis(Run& run, const Linear& by, float* x, std::ptrdiff_t rows) {
  multiply_one(run, by, x, rows, run.at.delta);
  std::memcpy(x, run.at.delta, sizeof(float) * rows * run.model.width);
  run.clock.mark(Part::turn);
}

// `normalise` of the residual stream in another basis, where there is one.
void turn_and_normalise(Run& run, const Stacked& by, const Norm& norm, bool with_delta, std::ptrdiff_t rows) {
  if (by.empty()) return normalise(run, norm, with_delta, rows);
  const std::ptrdiff_t floats = rows * run.model.width;
  for (std::ptrdiff_t i = 0; with_delta && i < floats; ++i) run.at.hidden[i] += run.at.delta[i];
  change_basis(run, by[0], run.at.hidden, rows);
  normalise(run, norm, false, rows);
}

void normalise_heads(const Run& run, const Norm& norm, float* heads, int count) {
  if (norm.weight == nullptr) return;
  const int depth = run.model.depth;
  rms::kernel(run.isa).add_rms_norm({heads, nullptr, nullptr, norm.weight, heads, depth, depth, norm.eps}, 0, count);
}

// Where a layer's keys and values of a batch row and head begin.
std::size_t cached(const Run& run, std::size_t layer, std::ptrdiff_t row, int head) {
  const std::size_t which = (layer * run.call.batch + row) * run.model.kv_heads + head;
  return which * static_cast<std::size_t>(run.call.capacity) * run.model.depth;
}

// Turns one token's queries and keys by its position and writes its keys and values into the cache.
void remember(const Run& run, const Block& block, std::size_t layer, std::ptrdiff_t row) {
  const Model& m = run.model;
  const Step& call = run.call;
  float* const q = run.at.qkv + row * run.qkv_width();
  float* const k = q + m.heads * m.depth;
  const float* const v = k + m.kv_heads * m.depth;
  normalise_heads(run, block.q_norm, q, m.heads);
  normalise_heads(run, block.k_norm, k, m.kv_heads);
  if (call.cosine != nullptr) {
    const std::ptrdiff_t angle = call.positions[row] * (m.depth / 2);
    rope::kernel(run.isa).rotate(q, m.heads + m.kv_heads, m.depth, call.cosine + angle, call.sine + angle);
  }
  const std::ptrdiff_t slot = call.past + row % call.tokens;
  for (int head = 0; head < m.kv_heads; ++head) {
    const std::size_t base = cached(run, layer, row / call.tokens, head);
    float* const panel = call.keys + base + slot / block_keys * block_keys * m.depth + slot % block_keys;
    for (int i = 0; i < m.depth; ++i) panel[i * block_keys] = k[head * m.depth + i];
    std::memcpy(call.values + base + slot * m.depth, v + head * m.depth, sizeof(float) * m.depth);
  }
}

// Whether a layer looks at none of its inputs [at, at + width) in rows [first, first + count) of the step, as was foreseen.
bool left_out(const Run& run, const Linear& linear, std::ptrdiff_t first, int count, std::ptrdiff_t at, int width) {
  if (linear.select.kind != Select::Kind::foreseen || !linear.rest.empty()) return false;
  for (std::ptrdiff_t row = first; row < first + count; ++row) {
    const unsigned char* const mask = mask_of(run, linear.select.slot, row) + at;
    if (std::find(mask, mask + width, 1) != mask + width) return false;
  }
  return true;
}

void attend(Run& run, const Block& block, std::size_t layer) {
  const Model& m = run.model;
  const Step& call = run.call;
  const int keys = call.past + call.tokens, share = m.heads / m.kv_heads;
  const decode_attention::Kernel& kernel = decode_attention::kernel(run.isa);
  // Queries of a row are split where heads alone leave threads idle; a part reads its keys again.
  const std::ptrdiff_t groups = call.batch * m.kv_heads;
  // Cached keys and values come from memory: the layers' weights have passed through the caches since the last token.
  const double cached_floats = 2.0 * static_cast<double>(groups) * keys * m.depth;
  const double work = 4 * cached_floats + static_cast<double>(rows_of(call)) * m.heads * keys * m.depth / 8;
  const int threads = threads_for(work, run.threads);
  const int parts = groups >= threads ? 1 : std::min<int>(call.tokens, static_cast<int>((threads + groups - 1) / groups));
  parallel_for(static_cast<std::size_t>(groups) * parts, threads, [&](std::size_t task) {
    static thread_local Scratch scratch;
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(task) / parts / m.kv_heads;
    const int head = static_cast<int>(task / parts % m.kv_heads), part = static_cast<int>(task % parts);
    const int begin = call.tokens * part / parts, end = call.tokens * (part + 1) / parts;
    const std::ptrdiff_t token = row * call.tokens + begin, at = static_cast<std::ptrdiff_t>(head) * share * m.depth;
    float* const to = run.at.attended + token * m.heads * m.depth + at;
    const std::ptrdiff_t apart = std::ptrdiff_t{m.heads} * m.depth;
    if (left_out(run, block.out, token, end - begin, at, share * m.depth)) {  // its keys are not read
      for (int t = 0; t < end - begin; ++t) std::fill_n(to + t * apart, share * m.depth, 0.0f);
      return;
    }
    const std::size_t base = cached(run, layer, row, head);
    const decode_attention::Group group{run.at.qkv + token * run.qkv_width() + at,
                                        run.qkv_width(),
                                        call.keys + base,
                                        call.values + base,
                                        call.allowed == nullptr ? nullptr : call.allowed + row * call.capacity,
                                        to,
                                        apart,
                                        end - begin,
                                        share,
                                        m.depth,
                                        call.first == nullptr ? 0 : call.first[row],
                                        call.past + begin,
                                        block.scale};
    kernel.attend(group, scratch.at_least(decode_attention::scratch_floats(keys, m.depth)));
  });
  run.clock.mark(Part::attention);
}

// wide = act(gate) * up, of rows (rows, 2 features) in place.
void gate_rows(Run& run, const Block& block, std::ptrdiff_t rows) {
  const int features = rows_of(block.up) / 2;
  const gate::Kernel& kernel = gate::kernel(run.isa);
  each_row(run, rows, 16 * features, [&](std::ptrdiff_t row) {
    float* const from = run.at.wide + row * 2 * features;
    kernel.multiply(from, features, block.activation, from);
  });
  for (std::ptrdiff_t row = 1; row < rows; ++row)  // the products stand where the gates stood: closed up, row by row
    std::memmove(run.at.wide + row * features, run.at.wide + row * 2 * features, sizeof(float) * features);
  run.clock.mark(Part::gate);
}

// Neurons that are not 0 in some row; this thread's memory.
const std::vector<std::int32_t>& used_neurons(const float* neurons, std::ptrdiff_t rows, int features) {
  static thread_local std::vector<std::int32_t> list;
  list.clear();
  for (int j = 0; j < features; ++j) {
    bool used = false;
    for (std::ptrdiff_t row = 0; row < rows; ++row) used |= neurons[row * features + j] != 0.0f;
    if (used) list.push_back(j);
  }
  return list;
}

// neurons (rows, features) *= up, of the neurons that are not 0 alone where up's layout can do so.
void multiply_up(Run& run, const Linear& up, float* neurons, std::ptrdiff_t rows) {
  const int features = up.out();
  float* const to = neurons + rows * features;
  if (!up.at(rows).picks_rows() || !up.rest.empty()) {
    multiply_one(run, up, run.at.normed, rows, to);
    elementwise::kernel(run.isa).multiply(neurons, to, rows * features, neurons);
    return;
  }
  const std::vector<std::int32_t>& list = used_neurons(neurons, rows, features);
  const float* const x = selected(run, up, run.at.normed, rows);
  up.at(rows).multiply_rows(x, rows, list.data(), static_cast<int>(list.size()), up.bias, to, run.threads);
  for (std::ptrdiff_t row = 0; row < rows; ++row)
    for (const std::int32_t j : list) neurons[row * features + j] *= to[row * features + j];
}

// Neurons that a mask names in some row; this thread's memory.
const std::vector<std::int32_t>& foreseen_neurons(const Run& run, int slot, std::ptrdiff_t rows, int features) {
  static thread_local std::vector<std::int32_t> list;
  list.clear();
  for (int j = 0; j < features; ++j) {
    bool used = false;
    for (std::ptrdiff_t row = 0; row < rows; ++row) used |= mask_of(run, slot, row)[j] != 0;
    if (used) list.push_back(j);
  }
  return list;
}

// The first layer's neurons that a mask names, and no others where its layout can do so; activations give 0 for 0.
void multiply_foreseen(Run& run, const Block& block, float* neurons, std::ptrdiff_t rows) {
  const Linear& first = block.up[0];
  const int features = first.out();
  if (!first.at(rows).picks_rows() || !first.rest.empty()) {
    multiply_one(run, first, run.at.normed, rows, neurons);
  } else {
    const std::vector<std::int32_t>& list = foreseen_neurons(run, block.hidden.slot, rows, features);
    const float* const x = selected(run, first, run.at.normed, rows);
    std::fill(neurons, neurons + rows * features, 0.0f);
    first.at(rows).multiply_rows(x, rows, list.data(), static_cast<int>(list.size()), first.bias, neurons, run.threads);
    elementwise::kernel(run.isa).activate(first.activation, neurons, rows * features, neurons);
  }
  keep_foreseen(run, block.hidden.slot, neurons, rows, features, neurons);
}

// The neurons that each row uses: act(gate) where it is selected, times up.
void select_neurons(Run& run, const Block& block, std::ptrdiff_t rows) {
  float* const neurons = run.at.wide;
  if (block.hidden.kind == Select::Kind::foreseen) {
    multiply_foreseen(run, block, neurons, rows);
    run.clock.mark(Part::up);
  } else {
    multiply(run, block.up[0], run.at.normed, rows, neurons, Part::up);
    select_rows(run, block.hidden, neurons, rows, block.up[0].out(), neurons);
    run.clock.mark(Part::gate);
  }
  if (!block.gated) return;
  multiply_up(run, block.up[1], neurons, rows);
  run.clock.mark(Part::up);
}

void mlp(Run& run, const Block& block, std::ptrdiff_t rows) {
  if (block.hidden.kind != Select::Kind::all) {
    select_neurons(run, block, rows);
  } else {
    multiply(run, block.up, run.at.normed, rows, run.at.wide, Part::up);
    if (block.gated) gate_rows(run, block, rows);
  }
  multiply(run, block.down, run.at.wide, rows, run.at.delta, Part::down);
}

// Moves the last token of every row to the front, in what the last norm reads.
void keep_last(Run& run) {
  const Step& call = run.call;
  const std::size_t bytes = sizeof(float) * run.model.width;
  if (!call.last_only || call.tokens == 1) return;
  for (std::ptrdiff_t row = 0; row < call.batch; ++row)
    for (float* from : {run.at.hidden, run.at.delta})
      std::memmove(from + row * run.model.width, from + ((row + 1) * call.tokens - 1) * run.model.width, bytes);
}

}  // namespace

const Layout& Linear::at(std::ptrdiff_t tokens) const noexcept {
  for (const Choice& choice : choices)
    if (tokens <= choice.tokens) return *choice.layout;
  return *choices.back().layout;
}

int rows_of(const Stacked& linears) noexcept {
  int rows = 0;
  for (const Linear& linear : linears) rows += linear.out();
  return rows;
}

namespace {

// The most floats a row that the copies of inputs, the pieces of stacked layers and what passes by a selection take, 0 where
// there are none.
struct Extra {
  std::size_t selected = 0, piece = 0, rest = 0, inner = 0, added = 0;
  std::size_t narrow = 0, logits = 0, mask = 0;

  void see(const std::vector<Foresight>& foresights) {
    for (const Foresight& by : foresights) {
      for (const Linear& linear : by.net) see(linear, true);
      if (by.net.size() == 2) narrow = std::max<std::size_t>(narrow, by.net[0].out());
      logits = std::max<std::size_t>(logits, by.net.back().out());
      mask = std::max(mask, static_cast<std::size_t>(by.net.back().out()) * by.spread);
    }
  }

  void see(const Linear& linear, bool alone) {
    if (linear.select.kind != Select::Kind::all) selected = std::max<std::size_t>(selected, linear.in());
    if (!alone) piece = std::max<std::size_t>(piece, linear.out());
    if (linear.rest.empty()) return;
    rest = std::max<std::size_t>(rest, linear.in());
    inner = std::max<std::size_t>(inner, linear.rest[0].out());
    added = std::max<std::size_t>(added, linear.out());
  }
  void see(const Stacked& linears) {
    for (const Linear& linear : linears) see(linear, linears.size() == 1);
  }
};

}  // namespace

Workspace::Buffers Workspace::reserve(const Model& model, std::ptrdiff_t rows) {
  std::size_t wide = 0;
  Extra extra;
  for (const Block& block : model.blocks) {
    wide = std::max<std::size_t>(wide, rows_of(block.up));
    extra.see(block.qkv), extra.see(block.out, true), extra.see(block.up), extra.see(block.down, true);
    extra.see(block.attention_foresights), extra.see(block.mlp_foresights);
  }
  extra.see(model.head, true);
  const std::size_t width = model.width, heads = static_cast<std::size_t>(model.heads) * model.depth;
  const std::size_t qkv = heads + 2 * static_cast<std::size_t>(model.kv_heads) * model.depth;
  const std::size_t sizes[] = {width, width, width, qkv, heads, wide, extra.selected, extra.piece,
                               extra.rest, extra.inner, extra.added, extra.narrow, extra.logits,
                               mask_slots * extra.mask / sizeof(float) + (extra.mask != 0)};
  std::size_t total = 0;
  for (const std::size_t size : sizes) total += (size * rows + 15) / 16 * 16;
  constexpr int buffers = std::size(sizes);
  float* at[buffers];
  float* next = block_.at_least(total);
  for (int i = 0; i < buffers; ++i) at[i] = next, next += (sizes[i] * rows + 15) / 16 * 16;
  bytes_ = std::max(bytes_, total * sizeof(float));
  return {at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7],
          at[8], at[9], at[10], at[11], at[12], reinterpret_cast<unsigned char*>(at[13]), static_cast<std::ptrdiff_t>(extra.mask)};
}

void step(const Model& model, Workspace& workspace, const Step& call, int threads) {
  check(model, call);
  std::ptrdiff_t rows = rows_of(call);
  if (rows == 0) return;
  const FlushDenormals flush;
  const Workspace::Buffers buffers = workspace.reserve(model, rows);
  Run run{model, call, buffers, allowed_isa(), threads, Clock(call.nanoseconds)};
  embed(run);
  for (std::size_t layer = 0; layer < model.blocks.size(); ++layer) {
    const Block& block = model.blocks[layer];
    turn_and_normalise(run, block.turn, block.attention_norm, layer > 0, rows);
    foresee(run, block.attention_foresights, rows);
    multiply(run, block.qkv, buffers.normed, rows, buffers.qkv, Part::qkv);
    each_row(run, rows, 8 * run.qkv_width(), [&](std::ptrdiff_t row) { remember(run, block, layer, row); });
    run.clock.mark(Part::rotary);
    attend(run, block, layer);
    multiply(run, block.out, buffers.attended, rows, buffers.delta, Part::out);
    normalise(run, block.mlp_norm, true, rows);
    if (!block.mlp_turn.empty()) change_basis(run, block.mlp_turn[0], buffers.normed, rows);
    foresee(run, block.mlp_foresights, rows);
    mlp(run, block, rows);
  }
  keep_last(run);
  if (call.last_only) rows = call.batch;
  turn_and_normalise(run, model.turn, model.final_norm, !model.blocks.empty(), rows);
  multiply(run, model.head, buffers.normed, rows, call.logits, Part::head);
}

}  // namespace rarefy::decoder
