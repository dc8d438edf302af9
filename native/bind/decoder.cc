#include "bind/decoder.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bind/packed.h"
#include "core/denormals.h"
#include "kernels/decode_attention/contract.h"
#include "kernels/gate/contract.h"
#include "kernels/rms/contract.h"
#include "kernels/rope/contract.h"
#include "ops/decoder.h"

namespace nb = nanobind;

namespace rarefy {
namespace {

using NormArgs = std::tuple<bool, std::uintptr_t, std::uintptr_t, float>;  // rms, weight, bias, eps
using ChoiceArgs = std::tuple<std::int64_t, const Packed*>;
// kind, threshold, step, weight, keep, block, slot
using SelectArgs = std::tuple<int, std::uintptr_t, int, std::uintptr_t, int, int, int>;
using ChoicesArgs = std::vector<ChoiceArgs>;
// choices, bias, activation, select, the choices of the two layers of a rest (or of none)
using LinearArgs = std::tuple<ChoicesArgs, std::uintptr_t, int, SelectArgs, std::vector<ChoicesArgs>>;

decoder::Norm norm_of(const NormArgs& args) {
  const auto& [rms, weight, bias, eps] = args;
  return {rms, at<float>(weight), at<float>(bias), eps};
}

Select select_of(const SelectArgs& args) {
  const auto& [kind, threshold, step, weight, keep, block, slot] = args;
  if (slot < 0 || slot >= decoder::mask_slots) throw std::invalid_argument("select: there is no mask " + std::to_string(slot));
  if (kind == static_cast<int>(Select::Kind::blocks) && (block < 1 || keep < 0 || keep > block))
    throw std::invalid_argument("select: " + std::to_string(keep) + " of every " + std::to_string(block) + " cannot be kept");
  return {static_cast<Select::Kind>(kind), at<float>(threshold), step, at<float>(weight), keep, block, slot};
}

// The layouts must all be (out, in); out 0: whatever they are, alike.
std::vector<decoder::Choice> choices_of(const ChoicesArgs& choices, int out, int in) {
  std::vector<decoder::Choice> found;
  if (choices.empty()) throw std::invalid_argument("decoder: a linear layer without a layout");
  for (const auto& [tokens, packed] : choices) {
    const Layout& layout = packed->layout();
    if (out == 0) out = layout.out();
    if (layout.out() != out || layout.in() != in)
      throw std::invalid_argument("decoder: a layer is (" + std::to_string(layout.out()) + ", " +
                                  std::to_string(layout.in()) + "), it must be (" + std::to_string(out) + ", " +
                                  std::to_string(in) + ")");
    found.push_back({tokens, &layout});
  }
  return found;
}

decoder::Linear linear_of(const LinearArgs& args, int out, int in) {
  const auto& [choices, bias, activation, select, rest] = args;
  decoder::Linear linear{choices_of(choices, out, in), at<float>(bias), static_cast<Activation>(activation), select_of(select), {}};
  if (linear.select.kind == Select::Kind::blocks && in % linear.select.block != 0)
    throw std::invalid_argument("decoder: " + std::to_string(in) + " inputs are no multiple of blocks of " +
                                std::to_string(linear.select.block));
  if (rest.empty()) return linear;
  if (rest.size() != 2) throw std::invalid_argument("decoder: what passes by a selection goes through two layers");
  linear.rest.push_back({choices_of(rest[0], 0, in), nullptr, Activation::none, {}, {}});
  linear.rest.push_back({choices_of(rest[1], linear.out(), linear.rest[0].out()), nullptr, Activation::none, {}, {}});
  return linear;
}

// Masks are used where heads are joined and behind the activation alone.
const decoder::Linear& without_mask(const decoder::Linear& linear) {
  if (linear.select.kind == Select::Kind::foreseen) throw std::invalid_argument("decoder: no mask is taken here");
  return linear;
}

decoder::Stacked stacked_of(const std::vector<LinearArgs>& args, int in) {
  if (args.empty()) throw std::invalid_argument("decoder: layers of one input, but none of them");
  decoder::Stacked linears;
  for (const LinearArgs& one : args) linears.push_back(without_mask(linear_of(one, 0, in)));
  return linears;
}

using ForesightArgs = std::tuple<std::vector<LinearArgs>, int, int, int, float>;  // net, keep, spread, slot, full

std::vector<decoder::Foresight> foresights_of(const std::vector<ForesightArgs>& every, int in) {
  std::vector<decoder::Foresight> found;
  for (const auto& [net, keep, spread, slot, full] : every) {
    if (net.empty() || net.size() > 2 || spread < 1 || slot < 0 || slot >= decoder::mask_slots)
      throw std::invalid_argument("decoder: a foresight is made by one layer or two, into one of " +
                                  std::to_string(decoder::mask_slots) + " masks");
    decoder::Stacked layers;
    for (const LinearArgs& one : net) layers.push_back(without_mask(linear_of(one, 0, layers.empty() ? in : layers.back().out())));
    found.push_back({std::move(layers), keep, spread, slot, full});
  }
  return found;
}

// Masks that a place uses must be as wide as it is, whoever makes them.
void require_mask(const decoder::Model& model, const Select& select, int width) {
  if (select.kind != Select::Kind::foreseen) return;
  bool made = false;
  for (const decoder::Block& block : model.blocks)
    for (const auto* list : {&block.attention_foresights, &block.mlp_foresights})
      for (const decoder::Foresight& by : *list)
        if (by.slot == select.slot) {
          made = true;
          if (by.net.back().out() * by.spread != width) throw std::invalid_argument("decoder: a mask of another width");
        }
  if (!made) throw std::invalid_argument("decoder: a mask that nothing makes before it is used");
}

// None, or one layer (width, width).
decoder::Stacked turn_of(const std::vector<LinearArgs>& args, int width) {
  if (args.size() > 1) throw std::invalid_argument("decoder: a basis is changed by one matrix");
  return args.empty() ? decoder::Stacked{} : decoder::Stacked{without_mask(linear_of(args[0], width, width))};
}

void require_rows(const decoder::Stacked& linears, int rows, const char* what) {
  if (decoder::rows_of(linears) != rows)
    throw std::invalid_argument(std::string("decoder: ") + what + " give " + std::to_string(decoder::rows_of(linears)) +
                                " features, it must be " + std::to_string(rows));
}

// The model and one workspace a concurrent call. Addresses and layouts must outlive it: the Python side holds them.
class Decoder {
 public:
  Decoder(int width, int heads, int kv_heads, int depth, std::uintptr_t embedding, int vocabulary, std::uintptr_t positions,
          std::int64_t position_rows, std::int64_t position_offset)
      : model_{width,         heads, kv_heads, depth, at<float>(embedding), vocabulary, at<float>(positions), position_rows,
               position_offset, {},   {},       {},    {}} {
    if (kv_heads < 1 || heads % kv_heads != 0) throw std::invalid_argument("decoder: heads must be a multiple of kv_heads");
  }

  void add_block(const std::vector<LinearArgs>& turn, const NormArgs& attention_norm, const std::vector<LinearArgs>& qkv, const NormArgs& q_norm, const NormArgs& k_norm,
                 float scale, const LinearArgs& out, const NormArgs& mlp_norm,
                 const std::vector<LinearArgs>& mlp_turn, const std::vector<LinearArgs>& up, bool gated, int activation, const SelectArgs& hidden, const LinearArgs& down,
                 const std::vector<ForesightArgs>& attention_foresights, const std::vector<ForesightArgs>& mlp_foresights) {
    const int attended = model_.heads * model_.depth;
    decoder::Stacked heads = stacked_of(qkv, model_.width), wide = stacked_of(up, model_.width);
    require_rows(heads, (model_.heads + 2 * model_.kv_heads) * model_.depth, "queries, keys and values");
    const int features = decoder::rows_of(wide) / (gated ? 2 : 1);
    const Select neurons = select_of(hidden);
    if (neurons.kind != Select::Kind::all && (wide.size() != (gated ? 2u : 1u) || wide[0].out() != features))
      throw std::invalid_argument("decoder: where neurons are selected, gate and up are two layers of the same size");
    if (neurons.kind == Select::Kind::blocks && features % neurons.block != 0)
      throw std::invalid_argument("decoder: neurons are no multiple of the blocks that they are selected in");
    model_.blocks.push_back({turn_of(turn, model_.width), norm_of(attention_norm),
                             std::move(heads),
                             norm_of(q_norm), norm_of(k_norm), scale, linear_of(out, model_.width, attended),
                             norm_of(mlp_norm), turn_of(mlp_turn, model_.width),
                             foresights_of(attention_foresights, model_.width), foresights_of(mlp_foresights, model_.width),
                             std::move(wide), gated, static_cast<Activation>(activation), neurons,
                             without_mask(linear_of(down, model_.width, features))});
    require_mask(model_, model_.blocks.back().out.select, attended);
    require_mask(model_, neurons, features);
  }

  void set_head(const std::vector<LinearArgs>& turn, const NormArgs& final_norm, const LinearArgs& head) {
    model_.turn = turn_of(turn, model_.width);
    model_.final_norm = norm_of(final_norm);
    model_.head = without_mask(linear_of(head, 0, model_.width));
  }

  void step(decoder::Workspace& workspace, std::int64_t batch, int tokens, int past, int capacity, std::uintptr_t ids,
            std::uintptr_t positions, std::uintptr_t cosine, std::uintptr_t sine, std::int64_t rotary_rows,
            std::uintptr_t keys, std::uintptr_t values, std::uintptr_t allowed, std::uintptr_t first, bool last_only,
            std::uintptr_t logits, std::uintptr_t nanoseconds, int threads) const {
    if (model_.head.choices.empty()) throw std::invalid_argument("decoder: set_head() has not been called");
    const decoder::Step call{batch,
                             tokens,
                             past,
                             capacity,
                             at<std::int64_t>(ids),
                             at<std::int64_t>(positions),
                             at<float>(cosine),
                             at<float>(sine),
                             rotary_rows,
                             at<float>(keys),
                             at<float>(values),
                             at<unsigned char>(allowed),
                             at<int>(first),
                             last_only,
                             at<float>(logits),
                             at<std::int64_t>(nanoseconds)};
    decoder::step(model_, workspace, call, threads);
  }

 private:
  decoder::Model model_;
};

std::vector<std::string> part_names() {
  return {"embedding", "norms", "qkv", "rotary", "attention", "out", "up", "gate", "down", "head", "turn", "foresight"};
}

// The single kernels, for their tests and for the walk in torch.

void select_inputs(std::uintptr_t x, std::int64_t tokens, int width, const SelectArgs& by, std::uintptr_t y) {
  select(select_of(by), at<float>(x), tokens, width, at<float>(y), allowed_isa());
}

void add_rms_norm(std::uintptr_t x, std::uintptr_t residual, std::uintptr_t sum, std::uintptr_t weight, std::uintptr_t y,
                  std::int64_t rows, int features, float eps) {
  rms::kernel(allowed_isa())
      .add_rms_norm({at<float>(x), at<float>(residual), at<float>(sum), at<float>(weight), at<float>(y), features, features, eps},
                    0, rows);
}

void rotate(std::uintptr_t x, std::int64_t tokens, int heads, int depth, std::uintptr_t cosine, std::uintptr_t sine) {
  for (std::int64_t t = 0; t < tokens; ++t)
    rope::kernel(allowed_isa())
        .rotate(at<float>(x) + t * heads * depth, heads, depth, at<float>(cosine) + t * (depth / 2), at<float>(sine) + t * (depth / 2));
}

void gate_multiply(std::uintptr_t from, std::int64_t rows, int features, int activation, std::uintptr_t y) {
  for (std::int64_t r = 0; r < rows; ++r)
    gate::kernel(allowed_isa())
        .multiply(at<float>(from) + r * 2 * features, features, static_cast<Activation>(activation), at<float>(y) + r * features);
}

// One group: q and y (queries, share, depth), keys and values of one head as in the cache.
void decode_attention_group(std::uintptr_t q, std::uintptr_t keys, std::uintptr_t values, std::uintptr_t allowed, std::uintptr_t y,
                      int queries, int share, int depth, int first, int past, float scale) {
  const FlushDenormals flush;  // as in a step: the softmax relies on it
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(share) * depth;
  Scratch scratch;
  decode_attention::kernel(allowed_isa())
      .attend({at<float>(q), row, at<float>(keys), at<float>(values), at<unsigned char>(allowed), at<float>(y), row, queries,
               share, depth, first, past, scale},
              scratch.at_least(decode_attention::scratch_floats(past + queries, depth)));
}

}  // namespace

void bind_decoder(nb::module_& m) {
  using Unlocked = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<decoder::Workspace>(m, "DecoderWorkspace").def(nb::init<>()).def_prop_ro("nbytes", &decoder::Workspace::bytes);
  nb::class_<Decoder>(m, "Decoder")
      .def(nb::init<int, int, int, int, std::uintptr_t, int, std::uintptr_t, std::int64_t, std::int64_t>())
      .def("add_block", &Decoder::add_block)
      .def("set_head", &Decoder::set_head)
      .def("step", &Decoder::step, Unlocked());
  m.def("decoder_parts", &part_names);
  m.def("add_rms_norm", &add_rms_norm, Unlocked());
  m.def("rotate", &rotate, Unlocked());
  m.def("gate_multiply", &gate_multiply, Unlocked());
  m.def("select_inputs", &select_inputs, Unlocked());
  m.def("decode_attention", &decode_attention_group, Unlocked());
}

}  // namespace rarefy
