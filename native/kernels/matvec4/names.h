// How a line of matvec4.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_MATVEC4_ID(isa, format, activations) isa##_##format##_##activations
#define RAREFY_MATVEC4_NAME_floats(isa, format) "matvec4-" #isa "-" #format "-fp32"
#define RAREFY_MATVEC4_NAME_bytes(isa, format) "matvec4-" #isa "-" #format "-int8"
#define RAREFY_MATVEC4_CALLS_floats(isa, format) isa::multiply_rows<Format::format, Inputs>, nullptr
#define RAREFY_MATVEC4_CALLS_bytes(isa, format) nullptr, isa::multiply_rows<Format::format, Inputs8>
#define RAREFY_MATVEC4_DEFINE(isa, format, activations)                             \
  extern const Kernel RAREFY_MATVEC4_ID(isa, format, activations) = {               \
      RAREFY_MATVEC4_NAME_##activations(isa, format), Isa::isa, Format::format, \
      RAREFY_MATVEC4_CALLS_##activations(isa, format)};
