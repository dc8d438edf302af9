// What every packed weight is, whatever its format and types: the abstract layout, and the families that make them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/blob.h"
#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy {

// 8-bit rows (tokens, in), row-major: x[t][k] = scale[t * step] * (values[t * stride + k] - zero[t * step]).
struct Rows8 {
  const std::uint8_t* values;
  std::ptrdiff_t tokens, stride;
  const float* scale;
  const std::int32_t* zero;
  std::ptrdiff_t step;  // 1: a scale and a zero point for each token; 0: one for all
};

// Where the results of an 8-bit product go: floats, or 8-bit rows. One of the two is null.
struct Output8 {
  float* y;               // (tokens, out)
  std::uint8_t* values;   // (tokens, out): round(y * inverse) + zero, saturated
  float inverse;          // for all outputs, unless there is
  const float* inverses;  // (out) or null
  std::int32_t zero;
};

// What follows a product: act(product + bias); bias may be null.
struct Ending {
  const float* bias;
  Activation activation;
};

// What a layout is made of: floats (row-major, zeros are not stored), or codes with scales.
struct WeightSource {
  int out, in;
  const float* values;       // (out, in), or null: then
  const std::int8_t* codes;  // (out, in), zeros exact; w = scales * codes
  const float* scales;       // (out, groups): each scale belongs to in / groups consecutive inputs
  int groups, bits;          // bits: 8, or 4 for codes in [-7, 7]
  float input_scale;         // of 8-bit inputs known in advance; 0: each token's own, found at the call
  std::int32_t input_zero;
  const float* input_factors = nullptr;  // (in) or null: input k is divided by factor k before it is rounded (ops/factored.h)
  BlobReader* blob = nullptr;  // not null: instead of values or codes, the packed form
};

// Throws std::invalid_argument unless a blob's weight has the size that was asked for.
void require_size(const WeightSource& asked, int out, int in);

class Layout {
 public:
  Layout(int out, int in) noexcept : out_(out), in_(in) {}
  virtual ~Layout() = default;
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;

  int out() const noexcept { return out_; }
  int in() const noexcept { return in_; }
  virtual std::size_t nnz() const = 0;
  virtual std::size_t bytes() const = 0;
  // Every entry of (out, in): as stored, so rounded where the stored type is narrower.
  virtual void unpack(float* weight) const = 0;
  // What a WeightSource with a blob gives back.
  virtual void save(BlobWriter& to) const = 0;
  // y (tokens, out) = act(x (tokens, in) W^T + bias (out) or null); x and y row-major, not overlapping.
  virtual void multiply(const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation, float* y,
                        int threads) const = 0;
  // This product, and with its outputs (ending in `between`) the next layout's: y (tokens, next.out), ending in `last`. What is
  // between them never leaves a core's caches. False, and nothing done, where the two layouts do not fit together, or so few
  // tokens would leave threads without work.
  virtual bool multiply_through(const Layout& next, const float* x, std::ptrdiff_t tokens, const Ending& between,
                                const Ending& last, float* y, int threads) const;
  // `multiply` from 8-bit inputs, for the kernels whose activations are int8; the others throw std::logic_error.
  virtual void multiply8(const Rows8& x, const float* bias, Activation activation, const Output8& to, int threads) const;

  // Whether there is a product of single rows: y[t * out + row] = x[t] . W[row] + bias[row] for the `count` rows of a list,
  // the rest of y is left as it is. The others throw std::logic_error.
  virtual bool picks_rows() const { return false; }
  virtual void multiply_rows(const float* x, std::ptrdiff_t tokens, const std::int32_t* list, int count, const float* bias,
                             float* y, int threads) const;

 private:
  int out_, in_;
};

struct KernelEntry {
  std::string name, op;  // op: the family
  Isa isa;
  std::string weights, activations;  // "fp32", "bf16", "int8", "int4"
  int rows, tokens, depth;           // the tile; 0 where a dimension is not tiled
};

struct Family {
  std::vector<KernelEntry> (*kernels)();
  // Null if the name is no kernel of the family. The caller has checked the instruction set and the types.
  std::unique_ptr<Layout> (*pack)(const WeightSource&, const std::string& kernel);
};

const std::vector<Family>& families();  // families.cc: one line each

}  // namespace rarefy
