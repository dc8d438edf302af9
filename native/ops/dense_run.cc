#include "ops/dense_run.h"

#include <algorithm>

#include "ops/dense_source.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::dense {
namespace {

// Lines of a Product and sums under way at once: products that are cut keep the sums of all tokens, else of two pieces.
struct Cut {
  int together;  // blocks
  int depth, parts;
  std::size_t piece(const Kernel& kernel) const {
    return static_cast<std::size_t>(kernel.tokens) * together * block_rows;
  }
  std::size_t expanded() const {  // bytes: of two parts
    return static_cast<std::size_t>(std::min(parts, 2)) * together * depth * line_bytes;
  }
  std::size_t sums(const Kernel& kernel, std::ptrdiff_t tokens) const {
    return piece(kernel) * (parts == 1 ? 2 : (tokens + kernel.tokens - 1) / kernel.tokens);
  }
};

// Of a block for few tokens. With tiles, 64 and more were up to 1.8 times slower (4096x4096); the floats' sums are read
// and written once a part, and 32 were up to 10 % faster than 16 (3072x768).
int expanded_lines(const Kernel& kernel) { return kernel.type == Type::fp32 ? 32 : 16; }

// With few tokens more rows go side by side, and a weight stored whole is read once: cutting brings nothing. With many,
// the lines of two blocks shall stay in the first-level cache.
Cut cut_for(const Weight& w, std::ptrdiff_t tokens) {
  const bool few = tokens <= 16, expanded = w.expand != nullptr;
  const int lines = w.lines.lines(), together = few ? max_blocks : 2;
  const int depth = few && expanded ? expanded_lines(*w.kernel) : few ? 0 : w.kernel->depth;
  if (depth == 0 || lines <= depth * 4 / 3) return {together, lines, 1};
  const int parts = (lines + depth - 1) / depth, steps = lines / w.kernel->lines;
  const int each = (steps + parts - 1) / parts * w.kernel->lines;
  return {together, each, (lines + each - 1) / each};
}

// Some tokens and all inputs of a few blocks of rows, and where their results go.
class Piece {
 public:
  Piece(const Weight& w, Bytes x, std::ptrdiff_t token, const Results& results)
      : w_(w), x_(x), token_(token), results_(results) {}

  Finish finish(std::ptrdiff_t t, int tokens, int block, int blocks, const std::int32_t* sums) const {
    const int row = block * block_rows;
    const std::ptrdiff_t at = (token_ + t) * w_.lines.out + row;
    const Output8& to = results_.to;
    const bool scaled = w_.kernel->type == Type::int8;
    return {sums, blocks * block_rows, tokens, std::min(blocks * block_rows, w_.lines.out - row),
            scaled ? w_.scale.data() + row : nullptr, scaled ? w_.sums.data() + row : nullptr,
            scaled ? x_.scale + t * x_.step : nullptr, scaled ? x_.zero + t * x_.step : nullptr, x_.step,
            results_.bias == nullptr ? nullptr : results_.bias + row, results_.activation,
            to.values == nullptr ? to.y + at : nullptr, to.values == nullptr ? nullptr : to.values + at, w_.lines.out,
            to.inverse, to.inverses == nullptr ? nullptr : to.inverses + row, to.zero};
  }

  // The cache lines that results will be written to: they are fetched while the product is computed.
  static void ask_for(const Finish& f) {
    const std::size_t item = f.bytes == nullptr ? sizeof(float) : 1;
    const char* to = reinterpret_cast<const char*>(f.y);
    if (f.bytes != nullptr) to = reinterpret_cast<const char*>(f.bytes);
    for (int t = 0; t < f.tokens; ++t, to += f.y_stride * item)
      for (std::size_t byte = 0; byte < f.outputs * item; byte += 64) __builtin_prefetch(to + byte, 1, 3);
  }

  void finish_now(Finish& behind) const {
    w_.kernel->finish(behind);
    behind.tokens = 0;
  }

  // All tokens of x; `source` has the blocks' lines. Sums are finished one product later, when they have reached the
  // cache: the last stay in `behind`.
  void multiply(Source source, int block, int blocks, const Cut& cut, std::int32_t* sums, Finish& behind,
                int& turn) const {
    const Kernel& kernel = *w_.kernel;
    if (cut.parts > 1 && behind.tokens > 0) finish_now(behind);  // its sums are about to be written
    for (int part = 0; part < cut.parts; ++part) {
      const int first = part * cut.depth, depth = std::min(cut.depth, w_.lines.lines() - first);
      const std::uint8_t* const lines = source.part(part);
      for (std::ptrdiff_t t = 0; t < x_.tokens; t += kernel.tokens, ++turn) {
        const int tokens = static_cast<int>(std::min<std::ptrdiff_t>(kernel.tokens, x_.tokens - t));
        std::int32_t* const to = sums + cut.piece(kernel) * (cut.parts == 1 ? turn % 2 : t / kernel.tokens);
        if (part + 1 == cut.parts) ask_for(finish(t, tokens, block, blocks, to));
        const Product product{x_.values + t * x_.stride + first * token_bytes, x_.stride, tokens,
                              lines, source.stride(), blocks, depth, to,
                              blocks * block_rows, part > 0};
        kernel.multiply(product);
        if (behind.tokens > 0) finish_now(behind);
        if (part + 1 == cut.parts) behind = finish(t, tokens, block, blocks, to);
      }
    }
  }

 private:
  const Weight& w_;
  Bytes x_;
  std::ptrdiff_t token_;
  const Results& results_;
};

// Some rows' weights stay in the second-level cache while all tokens pass by them.
constexpr std::ptrdiff_t group_bytes = std::ptrdiff_t{1} << 18;

// Tokens that pass by a group of blocks one after the other. A bitmap is expanded for all.
std::ptrdiff_t tokens_at_once(const Weight& w, std::ptrdiff_t tokens) {
  return w.expand != nullptr ? tokens : std::min<std::ptrdiff_t>(w.kernel->at_once, tokens);
}

int blocks_at_once(const Weight& w, const Cut& cut) {
  if (w.expand != nullptr || w.block_bytes() == 0) return cut.together;
  return std::max<int>(1, static_cast<int>(group_bytes / (cut.together * w.block_bytes()))) * cut.together;
}

// Blocks [first, last) for all tokens of x.
void multiply_range(const Weight& w, const Bytes& x, std::ptrdiff_t token, int first, int last,
                    const Results& results) {
  static thread_local Scratch scratch;
  const std::ptrdiff_t at_once = tokens_at_once(w, x.tokens);
  const Cut cut = cut_for(w, at_once);
  const std::size_t expanded = w.expand == nullptr ? 0 : cut.expanded() / sizeof(float);
  float* const floats = scratch.at_least(expanded + cut.sums(*w.kernel, at_once));
  auto* const sums = reinterpret_cast<std::int32_t*>(floats + expanded);
  Finish behind{};
  int turn = 0;
  const int group = blocks_at_once(w, cut);
  for (int start = first; start < last; start += group)
    for (std::ptrdiff_t t = 0; t < x.tokens; t += at_once) {
      const Piece piece(w, x.from(t, std::min(at_once, x.tokens - t)), token + t, results);
      for (int block = start; block < std::min(start + group, last); block += cut.together) {
        const int blocks = std::min(cut.together, last - block);
        const Source source(w, block, blocks, cut.depth, reinterpret_cast<std::uint8_t*>(floats));
        piece.multiply(source, block, blocks, cut, sums, behind, turn);
      }
    }
  if (behind.tokens > 0) w.kernel->finish(behind);
  if (w.kernel->end != nullptr) w.kernel->end();
}

// Tokens in a task: many, so that a group of weights is read, or a bitmap expanded, for many of them.
std::ptrdiff_t tile_for(const Weight& w, std::ptrdiff_t tokens, int threads) {
  const std::ptrdiff_t most = w.expand != nullptr ? 512 : w.kernel->in_task, share = (tokens + threads - 1) / threads;
  return std::clamp<std::ptrdiff_t>((share + 31) / 32 * 32, 32, most);
}

int threads_worth(const Weight& w, std::ptrdiff_t tokens, int threads) {
  // than the float products that the rule is for
  const double faster = w.kernel->type == Type::fp32 ? 2 : w.kernel->isa == Isa::amx && tokens > 4 ? 32 : 8;
  return threads_for(static_cast<double>(w.lines.out) * w.lines.in * static_cast<double>(tokens) / faster, threads);
}

}  // namespace

void multiply(const Weight& w, const Inputs& inputs, const Results& results, int threads) {
  if (inputs.tokens == 0 || w.lines.out == 0) return;
  threads = threads_worth(w, inputs.tokens, threads);
  const std::ptrdiff_t tile = tile_for(w, inputs.tokens, threads), tiles = (inputs.tokens + tile - 1) / tile;
  const int padded = w.lines.lines() * token_bytes;
  if (tiles >= threads) {
    parallel_for(tiles, threads, [&](std::size_t task) {
      static thread_local Scratch scratch;
      const std::ptrdiff_t token = static_cast<std::ptrdiff_t>(task) * tile;
      const Bytes x = bytes_of(inputs, *w.kernel, padded, token, std::min(tile, inputs.tokens - token), scratch);
      multiply_range(w, x, token, 0, w.lines.blocks(), results);
    });
    return;
  }
  static thread_local Scratch scratch;
  const Bytes x = bytes_of(inputs, *w.kernel, padded, 0, inputs.tokens, scratch);
  const int quads = (w.lines.blocks() + max_blocks - 1) / max_blocks, parts = std::min(quads, threads);
  parallel_for(parts, threads, [&](std::size_t part) {
    const auto bound = [&](std::size_t p) {
      return std::min<int>(w.lines.blocks(), static_cast<int>(quads * p / parts) * max_blocks);
    };
    multiply_range(w, x, 0, bound(part), bound(part + 1), results);
  });
}

}  // namespace rarefy::dense
