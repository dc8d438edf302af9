#include "pack/columns.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "pack/bits.h"
#include "pack/row_scales.h"
#include "pack/scales4.h"

namespace rarefy::columns {
namespace {

// Some columns of a panel as the bits that are stored, 0 where nothing is and behind the last row.
struct Piece {
  static constexpr int most = 64;  // columns: few enough that the rows' lines are still near when the next row comes
  int rows, count = 0;
  std::vector<std::uint32_t> bits;  // (count, rows)

  explicit Piece(int rows) : rows(rows), bits(static_cast<std::size_t>(rows) * most) {}
  const std::uint32_t* column(int c) const { return bits.data() + static_cast<std::size_t>(c) * rows; }

  void take(const WeightSource& weight, Stored stored, int first_row, int first) {
    count = std::min(most, weight.in - first);
    std::fill(bits.begin(), bits.end(), 0u);
    for (int r = 0; r < rows && first_row + r < weight.out; ++r) {
      const std::size_t at = static_cast<std::size_t>(first_row + r) * weight.in + first;
      for (int c = 0; c < count; ++c)
        bits[static_cast<std::size_t>(c) * rows + r] = stored >= Stored::int8 ? static_cast<std::uint8_t>(weight.codes[at + c])
                                                                              : bits_of(weight.values[at + c], stored == Stored::bf16);
    }
  }
};

// The first bytes of little-endian words, one after the other.
unsigned char* put(const std::uint32_t* bits, int rows, int size, unsigned char* to) {
  for (int r = 0; r < rows; ++r, to += size) std::memcpy(to, bits + r, static_cast<std::size_t>(size));
  return to;
}

void append_dense(Packed& p, const Piece& piece) {
  const std::size_t at = p.bytes.size(), slice = slice_bytes(p.kernel->stored, piece.rows);
  p.bytes.resize(at + piece.count * slice);
  for (int c = 0; c < piece.count; ++c) put(piece.column(c), piece.rows, size_of(p.kernel->stored), p.bytes.data() + at + c * slice);
}

void append_masked(Packed& p, const Piece& piece, std::size_t base) {
  std::vector<unsigned char> slice(static_cast<std::size_t>(piece.rows) / 8 + 4 * piece.rows);
  const int size = size_of(p.kernel->stored);
  for (int c = 0; c < piece.count; ++c) {
    p.starts.push_back(static_cast<std::uint32_t>(p.bytes.size() - base));
    std::fill(slice.begin(), slice.begin() + piece.rows / 8, std::uint8_t{0});
    unsigned char* to = slice.data() + piece.rows / 8;
    for (int r = 0; r < piece.rows; ++r)
      if (const std::uint32_t bits = piece.column(c)[r]; bits != 0) {
        slice[r / 8] |= static_cast<unsigned char>(1u << (r % 8));
        to = put(&bits, 1, size, to);
      }
    p.bytes.append(slice.data(), to);
  }
}

void append_groups(Packed& p, const WeightSource& weight, const Piece& piece, int first_row, int first) {
  const int rows = piece.rows;
  const std::size_t slice = slice_bytes(Stored::int4, rows);
  for (int c = 0; c < piece.count; c += group_inputs) {
    std::vector<std::uint32_t> scales(rows);
    for (int r = 0; r < rows && first_row + r < p.out; ++r)
      scales[r] = scales4::rounded(scales4::of(weight, first_row + r, (first + c) / group_inputs), p.scales[first_row + r] * scales4::full);
    const std::size_t at = p.bytes.size();
    p.bytes.resize(at + 2 * static_cast<std::size_t>(rows) + group_inputs * slice);
    unsigned char* const values = put(scales.data(), rows, 2, p.bytes.data() + at);
    for (int k = 0; k < group_inputs && c + k < piece.count; ++k)
      for (int r = 0; r < rows; ++r) {
        const Nibble at_row = nibble_of(r % 128);
        values[k * slice + r / 128 * 64 + at_row.byte] |= static_cast<unsigned char>((piece.column(c + k)[r] & 15u) << at_row.shift);
      }
  }
}

void append_panel(Packed& p, const WeightSource& weight, int number) {
  const int first_row = number * p.panel;
  const std::size_t base = p.bytes.size();
  Piece piece(p.rows_of(number));
  for (int first = 0; first < p.in; first += Piece::most) {
    piece.take(weight, p.kernel->stored, first_row, first);
    for (const std::uint32_t bits : piece.bits) p.nnz += bits != 0;
    if (p.kernel->stored == Stored::int4) append_groups(p, weight, piece, first_row, first);
    else if (p.kernel->format == Format::bitmask) append_masked(p, piece, base);
    else append_dense(p, piece);
  }
  if (p.kernel->format == Format::bitmask) p.starts.push_back(static_cast<std::uint32_t>(p.bytes.size() - base));
  p.bases.push_back(p.bytes.size());
}

// Rows of a panel.
int panel_rows(int out, const Kernel& kernel) {
  const int line = rows_a_line(kernel.stored), parts = (out + widest_panel - 1) / widest_panel;
  return ((out + parts - 1) / std::max(1, parts) + line - 1) / line * line;
}

}  // namespace

Packed pack(const WeightSource& weight, const Kernel& kernel) {
  if (kernel.stored == Stored::int4) scales4::require(weight, kernel.name);
  if (kernel.stored == Stored::int8) require_row_scales(weight, kernel.name);
  Packed p;
  p.out = weight.out;
  p.in = weight.in;
  p.kernel = &kernel;
  p.panel = panel_rows(p.out, kernel);
  for (int row = 0; row < p.out && kernel.stored >= Stored::int8; ++row)
    p.scales.push_back(kernel.stored == Stored::int8 ? weight.scales[row] : scales4::largest(weight, row) / scales4::full);
  p.bases.push_back(0);
  for (int number = 0; number < p.panels(); ++number) append_panel(p, weight, number);
  p.bytes.resize(p.bytes.size() + overread);
  p.bytes.shrink_to_fit();
  return p;
}

std::size_t Packed::size() const {
  return bytes.size() + bases.size() * sizeof(std::size_t) + 4 * (starts.size() + scales.size());
}

Panels Packed::view() const {
  return {out, in, panel, bytes.data(), bases.data(), starts.data(), scales.empty() ? nullptr : scales.data()};
}

namespace {

float value_of(const Packed& p, int row, const unsigned char* at) {
  float value;
  std::uint16_t half;
  switch (p.kernel->stored) {
    case Stored::fp32: std::memcpy(&value, at, 4); return value;
    case Stored::bf16: std::memcpy(&half, at, 2); return from_bf16(half);
    default: return p.scales[row] * static_cast<float>(static_cast<std::int8_t>(*at));
  }
}

float value4(const Packed& p, const unsigned char* base, int rows, int row, int r, int k) {
  const std::size_t slice = slice_bytes(Stored::int4, rows);
  const unsigned char* const group = base + (k / group_inputs) * (2 * std::size_t(rows) + group_inputs * slice);
  std::uint16_t scale;
  std::memcpy(&scale, group + 2 * r, 2);
  const Nibble at = nibble_of(r % 128);
  const unsigned char byte = group[2 * rows + (k % group_inputs) * slice + r / 128 * 64 + at.byte];
  return p.scales[row] * static_cast<float>(scale) * static_cast<float>(nibble_value(byte, at.shift));
}

}  // namespace

void unpack(const Packed& p, float* weight) {
  const int size = size_of(p.kernel->stored);
  for (int number = 0; number < p.panels(); ++number) {
    const unsigned char* const base = p.bytes.data() + p.bases[number];
    const int rows = p.rows_of(number), first = number * p.panel;
    for (int k = 0; k < p.in; ++k) {
      const bool masked = p.kernel->format == Format::bitmask;
      const unsigned char* const slice =
          masked ? base + p.starts[static_cast<std::size_t>(number) * (p.in + 1) + k] : base + std::size_t(k) * rows * size;
      const unsigned char* from = masked ? slice + rows / 8 : slice;
      for (int r = 0; r < rows && first + r < p.out; ++r) {
        float& to = weight[static_cast<std::size_t>(first + r) * p.in + k];
        if (p.kernel->stored == Stored::int4) to = value4(p, base, rows, first + r, r, k);
        else if (masked && !(slice[r / 8] >> (r % 8) & 1)) to = 0.0f;
        else to = value_of(p, first + r, from), from += size;
      }
    }
  }
}

}  // namespace rarefy::columns
