#include "pack/lines.h"

#include <algorithm>
#include <cstring>

namespace rarefy::lines {
namespace {

// The entries of one block, whole lines, zeros where the matrix ends.
template <class Item>
void gather_block(const Lines& p, const Item* entries, int block, Item* to) {
  const int interleave = p.shape.interleave;
  std::fill(to, to + static_cast<std::size_t>(p.lines()) * p.line_entries(), Item{});
  for (int r = 0; r < block_rows && block * block_rows + r < p.out; ++r) {
    const Item* row = entries + static_cast<std::size_t>(block * block_rows + r) * p.in;
    for (int k = 0; k < p.in; ++k)
      to[static_cast<std::size_t>(k / interleave) * p.line_entries() + r * interleave + k % interleave] = row[k];
  }
}

template <class Item>
void scatter_block(const Lines& p, const Item* from, int block, Item* entries) {
  const int interleave = p.shape.interleave;
  for (int r = 0; r < block_rows && block * block_rows + r < p.out; ++r) {
    Item* row = entries + static_cast<std::size_t>(block * block_rows + r) * p.in;
    for (int k = 0; k < p.in; ++k)
      row[k] = from[static_cast<std::size_t>(k / interleave) * p.line_entries() + r * interleave + k % interleave];
  }
}

template <class Item>
void append_bitmap(Lines& p, const std::vector<Item>& block) {
  for (std::size_t at = 0; at < block.size(); at += 8) {
    unsigned bits = 0;
    for (int i = 0; i < 8; ++i)
      if (const Item item = block[at + i]; item != Item{}) {
        bits |= 1u << i;
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(&item);
        p.values.append(bytes, bytes + sizeof item);
      }
    p.masks.push_back(static_cast<std::uint8_t>(bits));
  }
  p.starts.push_back(p.values.size());
}

template <class Item>
void pack_as(Lines& p, const Item* entries) {
  std::vector<Item> block(static_cast<std::size_t>(p.lines()) * p.line_entries());
  if (p.bitmap) p.starts.push_back(0);
  for (int b = 0; b < p.blocks(); ++b) {
    gather_block(p, entries, b, block.data());
    p.nnz += block.size() - std::count(block.begin(), block.end(), Item{});
    if (p.bitmap) {
      append_bitmap(p, block);
    } else {
      const auto* bytes = reinterpret_cast<const std::uint8_t*>(block.data());
      p.values.append(bytes, bytes + block.size() * sizeof(Item));
    }
  }
  p.values.shrink_to_fit();
  if (p.bitmap) p.values.resize(p.values.size() + slack);
}

template <class Item>
void unpack_as(const Lines& p, Item* entries) {
  std::vector<Item> block(static_cast<std::size_t>(p.lines()) * p.line_entries());
  const std::uint8_t* from = p.values.data();
  const std::uint8_t* masks = p.masks.data();
  for (int b = 0; b < p.blocks(); ++b) {
    for (std::size_t i = 0; i < block.size(); ++i) {
      block[i] = Item{};
      if (p.bitmap && !(masks[i / 8] >> i % 8 & 1u)) continue;
      std::memcpy(&block[i], from, sizeof(Item));
      from += sizeof(Item);
    }
    masks += block.size() / 8;
    scatter_block(p, block.data(), b, entries);
  }
}

}  // namespace

std::size_t Lines::bytes() const {
  return values.size() - (bitmap ? slack : 0) + masks.size() + starts.size() * sizeof starts[0];
}

Lines pack(const void* entries, int out, int in, Shape shape, bool bitmap) {
  Lines p;
  p.out = out;
  p.in = in;
  p.shape = shape;
  p.bitmap = bitmap;
  switch (shape.item) {
    case 1: pack_as(p, static_cast<const std::uint8_t*>(entries)); break;
    case 2: pack_as(p, static_cast<const std::uint16_t*>(entries)); break;
    default: pack_as(p, static_cast<const std::uint32_t*>(entries)); break;
  }
  return p;
}

void unpack(const Lines& packed, void* entries) {
  switch (packed.shape.item) {
    case 1: return unpack_as(packed, static_cast<std::uint8_t*>(entries));
    case 2: return unpack_as(packed, static_cast<std::uint16_t*>(entries));
    default: return unpack_as(packed, static_cast<std::uint32_t*>(entries));
  }
}

}  // namespace rarefy::lines
