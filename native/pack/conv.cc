#include "pack/conv.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>

#include "pack/keep.h"

namespace rarefy::conv {
namespace {

constexpr std::size_t most_vectors = 65536;  // that 16-bit offsets name

constexpr std::uint32_t whole = ~0u, even_bytes = 0x00ff00ffu;

struct Entry {
  std::uint16_t offset;
  int column;          // within the row of the weight
  std::uint32_t mask;  // what of the word is stored here
};
using Row = std::vector<Entry>;

bool stored(Words words, std::uint32_t word) {
  return words == Words::floats ? kept(std::bit_cast<float>(word)) : word != 0;
}

// Whether 255 (|a| + |b|) of the first or the last two bytes passes 16 bits.
bool must_part(Words words, std::uint32_t word) {
  const auto size = [word](int i) { return std::abs(static_cast<std::int8_t>(word >> (8 * i))); };
  return words == Words::apart_bytes && (size(0) + size(1) > 128 || size(2) + size(3) > 128);
}

std::size_t weight_row(const Packed& p) { return static_cast<std::size_t>(p.in) * p.window.height * p.window.width; }

// The non-zeros of the rows in one block of channels: of one row, or of any of several.
Row entries_of(const Packed& p, Words words, const std::uint32_t* rows, int count, int block) {
  Row out;
  const int taps = p.window.height * p.window.width;
  for (int c = 0; c < p.channels_of(block); ++c)
    for (int tap = 0; tap < taps; ++tap) {
      const int column = (block * p.block + c) * taps + tap;
      bool any = false, part = false;
      for (int r = 0; r < count; ++r) {
        const std::uint32_t word = rows[r * weight_row(p) + column];
        any = any || stored(words, word);
        part = part || must_part(words, word);
      }
      const int y = tap / p.window.width, x = tap % p.window.width;
      const auto offset = static_cast<std::uint16_t>((c * p.window.width + x) * p.panel_rows() + y * p.window.dilation_y);
      if (any) out.push_back({offset, column, part ? even_bytes : whole});
      if (part) out.push_back({offset, column, ~even_bytes});
    }
  return out;
}

std::vector<int> longest_first(const std::vector<Row>& rows) {
  std::vector<int> order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rows[a].size() > rows[b].size(); });
  return order;
}

// Channels apart: those of like length share a group, so that little filling is needed and trip counts change seldom.
void append_apart(Packed& p, Words words, const std::uint32_t* band, int used, int block, Packed::Start& start) {
  std::vector<Row> rows(p.padded_rows());
  for (int r = 0; r < used; ++r) rows[r] = entries_of(p, words, band + r * weight_row(p), 1, block);
  const std::vector<int> order = longest_first(rows);
  const auto filling = static_cast<std::uint16_t>(p.block * p.channel_vectors());
  for (std::size_t at = 0; at < order.size(); at += p.kernel->rows) {
    const std::size_t steps = rows[order[at]].size();
    if (block > 0 && steps == 0) break;  // nothing to add any more; the first block also writes the zeros
    p.heads.push_back(static_cast<std::uint16_t>(steps));
    for (int r = 0; r < p.kernel->rows; ++r) p.heads.push_back(static_cast<std::uint16_t>(order[at + r]));
    for (std::size_t step = 0; step < steps; ++step)
      for (int r = 0; r < p.kernel->rows; ++r) {
        const int channel = order[at + r];
        const bool there = step < rows[channel].size();
        const Entry entry = there ? rows[channel][step] : Entry{filling, 0, 0};
        p.offsets.push_back(entry.offset);
        p.values.push_back(there ? band[channel * weight_row(p) + entry.column] & entry.mask : 0);
      }
    ++start.count;
  }
}

// Neighbouring channels share their inputs: a place where any of them has a weight is stored for all.
void append_together(Packed& p, Words words, const std::uint32_t* band, int used, int block, Packed::Start& start) {
  const int together = p.kernel->rows;
  std::vector<Row> rows(p.padded_rows() / together);
  for (std::size_t g = 0; g < rows.size(); ++g) {
    const int first = static_cast<int>(g) * together, count = std::clamp(used - first, 0, together);
    rows[g] = entries_of(p, words, band + first * weight_row(p), count, block);
  }
  for (const int g : longest_first(rows)) {
    if (block > 0 && rows[g].empty()) break;
    p.heads.push_back(static_cast<std::uint16_t>(rows[g].size()));
    for (int r = 0; r < together; ++r) p.heads.push_back(static_cast<std::uint16_t>(g * together + r));
    for (const Entry& entry : rows[g]) {
      p.offsets.push_back(entry.offset);
      for (int channel = g * together; channel < (g + 1) * together; ++channel) {
        const std::uint32_t word = channel < used ? band[channel * weight_row(p) + entry.column] : 0;
        p.values.push_back(stored(words, word) ? word & entry.mask : 0);
      }
    }
    ++start.count;
  }
}

int block_for(const Packed& p, std::size_t panel_bytes) {
  const std::size_t channel = static_cast<std::size_t>(p.channel_vectors());
  if (channel + p.panel_rows() > most_vectors)
    throw std::invalid_argument("pack_conv: a kernel of " + std::to_string(p.window.height) + " x " +
                                std::to_string(p.window.width) + " with this dilation is more than kernel " +
                                p.kernel->name + " can address; leave the layer dense");
  const std::size_t most = std::min(panel_bytes / (sizeof(float) * p.kernel->width), most_vectors - p.panel_rows());
  const int block = static_cast<int>(std::clamp<std::size_t>(most / channel, 1, std::max(1, p.in)));
  const int blocks = (std::max(1, p.in) + block - 1) / block;
  return (std::max(1, p.in) + blocks - 1) / blocks;  // blocks of about equal size
}

}  // namespace

int Packed::band_rows() const {
  const int bands = std::max(1, bands_a_group()), even = (group_out() + bands - 1) / bands;
  const int unit = std::lcm(kernel->rows, multiple);
  return std::max(unit, (even + unit - 1) / unit * unit);
}

int Packed::padded_rows() const { return band_rows(); }

int Packed::first_row(int band) const {
  return band / bands_a_group() * group_out() + std::min(band % bands_a_group() * band_rows(), group_out());
}

int Packed::rows_of(int band) const {
  return std::clamp(group_out() - band % bands_a_group() * band_rows(), 0, band_rows());
}

std::size_t Packed::panel_vectors() const {
  return static_cast<std::size_t>(block) * channel_vectors() + panel_rows();
}

Segment Packed::segment(int band, int b) const {
  const Start& start = starts[static_cast<std::size_t>(band) * blocks() + b];
  return {heads.data() + start.head, start.count, offsets.data() + start.offset, values.data() + start.value};
}

std::size_t Packed::bytes() const {
  return values.size() * sizeof(std::uint32_t) + (offsets.size() + heads.size()) * sizeof(std::uint16_t) +
         starts.size() * sizeof(Start);
}

Packed pack(const std::uint32_t* weight, Words words, int out, int in, int groups, const Window& window,
            const Tile& kernel, std::size_t panel_bytes, int multiple) {
  Packed p;
  p.out = out;
  p.in = in;
  p.groups = groups;
  p.window = window;
  p.kernel = &kernel;
  p.multiple = multiple;
  p.block = block_for(p, panel_bytes);
  for (int band = 0; band < p.bands(); ++band)
    for (int block = 0; block < p.blocks(); ++block) {
      const std::uint32_t* const rows = weight + p.first_row(band) * weight_row(p);
      Packed::Start start{p.values.size(), p.offsets.size(), p.heads.size(), 0};
      if (kernel.together) append_together(p, words, rows, p.rows_of(band), block, start);
      else append_apart(p, words, rows, p.rows_of(band), block, start);
      p.starts.push_back(start);
    }
  const std::size_t size = static_cast<std::size_t>(out) * weight_row(p);
  p.nnz = static_cast<std::size_t>(std::count_if(weight, weight + size, [&](std::uint32_t word) { return stored(words, word); }));
  return p;
}

void unpack(const Packed& p, std::uint32_t* weight) {
  std::fill(weight, weight + static_cast<std::size_t>(p.out) * weight_row(p), 0u);
  const int rows = p.kernel->rows, taps = p.window.height * p.window.width;
  for (int band = 0; band < p.bands(); ++band)
    for (int block = 0; block < p.blocks(); ++block) {
      const Segment s = p.segment(band, block);
      const std::uint16_t* offset = s.offsets;
      const std::uint32_t* value = s.values;
      for (std::size_t g = 0; g < s.count; ++g) {
        const std::uint16_t* group = s.groups + g * (1 + rows);
        for (int step = 0; step < group[0]; ++step, offset += p.kernel->together ? 1 : rows, value += rows)
          for (int r = 0; r < rows; ++r) {
            if (value[r] == 0) continue;
            const int at = offset[p.kernel->together ? 0 : r], column = at / p.panel_rows();
            const int c = block * p.block + column / p.window.width, x = column % p.window.width;
            const int y = at % p.panel_rows() / p.window.dilation_y;
            weight[(p.first_row(band) + group[1 + r]) * weight_row(p) + c * taps + y * p.window.width + x] |= value[r];
          }
      }
    }
}

}  // namespace rarefy::conv
