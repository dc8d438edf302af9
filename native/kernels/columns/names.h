// How a line of columns.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_COLUMNS_ID(isa, format, stored) isa##_##format##_##stored
#define RAREFY_COLUMNS_DEFINE(isa, format, stored)                                                             \
  extern const Kernel RAREFY_COLUMNS_ID(isa, format, stored) = {                                               \
      "columns-" #isa "-" #format "-" #stored, Isa::isa, Format::format, Stored::stored, "fp32",               \
      isa::add_active<Format::format, Stored::stored>, isa::put_rows, isa::list_columns};
#define RAREFY_COLUMNS_DEFINE8(isa, format, stored)                                                            \
  extern const Kernel RAREFY_COLUMNS_ID(isa, format, stored) = {                                               \
      "columns-" #isa "-" #format "-" #stored, Isa::isa, Format::format, Stored::stored, "int8",               \
      isa::add_active8<Stored::stored>, isa::put_rows, isa::list_columns};
