// A weight laid out by input columns, times few tokens: Y(tokens, out) = act(X(tokens, in) W^T + bias), where only the
// columns whose input is not 0 in some token are read. The SIMD axis is the outputs.
//
// Outputs are cut into panels of rows (the last has fewer: a multiple of what fills a cache line). A panel holds
// all columns one after the other, each a slice of whole lines, so that a skipped column costs no memory traffic. Panels
// are as wide as their sums fit the nearest cache: behind every slice that is not followed by its neighbour the hardware
// has fetched some lines for nothing (of 8-bit weights half skipped, slices of 256 bytes arrive at 12 GB/s, of 2816 at 22).
//   dense    the panel's values; of 4-bit weights 128 rows a line (`nibble_of`), and before every 16 columns one 16-bit
//            scale a row
//   bitmask  a bit a row (little-endian), then the values of the rows that are there; slices begin anywhere
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::columns {

enum class Format : int { dense = 0, bitmask = 1 };
enum class Stored : int { fp32 = 0, bf16 = 1, int8 = 2, int4 = 3 };

constexpr int size_of(Stored s) { return s == Stored::fp32 ? 4 : s == Stored::bf16 ? 2 : 1; }
constexpr int rows_a_line(Stored s) { return s == Stored::int4 ? 128 : 64 / size_of(s); }
constexpr const char* name_of(Stored s) {
  constexpr const char* names[] = {"fp32", "bf16", "int8", "int4"};
  return names[static_cast<int>(s)];
}
constexpr std::size_t slice_bytes(Stored s, int rows) { return s == Stored::int4 ? rows / 2 : std::size_t(rows) * size_of(s); }

inline constexpr int widest_panel = 5632;  // rows; a multiple of every rows_a_line
inline constexpr int group_inputs = 16; // columns that share a scale (4-bit)
inline constexpr int overread = 256;    // bytes that may be read (not used) behind the end
inline constexpr int most_tokens = 16;  // in one pass over the weights

// Where the 4-bit value of place i in a line of 128 stands: nibble i / 16 of the 32-bit word i % 16.
struct Nibble {
  int byte, shift;
};
constexpr Nibble nibble_of(int i) { return {4 * (i % 16) + i / 32, 4 * (i / 16 % 2)}; }
constexpr int nibble_value(unsigned char byte, int shift) {
  const int code = byte >> shift & 15;
  return code < 8 ? code : code - 16;
}

// Rows of panel `number`, whole lines: of the last with those behind the weight's.
constexpr int rows_of(Stored s, int out, int panel, int number) {
  const int left = out - number * panel, line = rows_a_line(s);
  return left >= panel ? panel : (left + line - 1) / line * line;
}

struct Panels {
  int out, in, panel;            // panel: rows of all but the last
  const unsigned char* bytes;
  const std::size_t* bases;      // (panels): where a panel begins
  const std::uint32_t* starts;   // bitmask: (panels, in + 1), where a column's slice begins in its panel; else null
  const float* scales;           // (out) of int8, and of int4 over 65535; else null
};

// The columns that are read, ascending, and what each token has there: values[t * stride + i]. bytes: as much room again, for
// kernels that round their inputs.
struct Active {
  const std::int32_t* columns;
  int count;
  const float* values;
  std::ptrdiff_t stride;
  int tokens;
  std::int8_t* bytes;
};

// Sums of several parts of the columns, to be added up: of part p, token t and row r at first[p * size + t * apart + r].
struct Sums {
  const float* first;
  int parts;
  std::ptrdiff_t size, apart;
};

struct Kernel {
  const char* name;
  Isa isa;
  Format format;
  Stored stored;
  const char* activations;  // "fp32", or "int8" where the inputs of a task are rounded
  // sums[t * apart + r] = what the active columns give for the rows of a panel, whole lines, without the scales of rows.
  void (*add)(const Panels&, int panel, const Active&, float* sums, std::ptrdiff_t apart) noexcept;
  // Rows [first, last) of y from the sums of all parts.
  void (*put)(const Panels&, int first, int last, int tokens, const Sums&, const RowOutput&) noexcept;
  // Columns of x (tokens, in) that hold anything but zeros, and their values; gives how many. `columns` and every row of
  // `values` have room for in + 16.
  int (*list)(const float* x, std::ptrdiff_t tokens, int in, std::int32_t* columns, float* values, std::ptrdiff_t stride) noexcept;
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::columns
