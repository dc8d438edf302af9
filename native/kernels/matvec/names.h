// How a line of matvec.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_MATVEC_ID(isa, format, stored, activations) isa##_##format##_##stored##_##activations
#define RAREFY_MATVEC_NAME_floats(isa, format, stored) "matvec-" #isa "-" #format "-" #stored
#define RAREFY_MATVEC_NAME_bytes(isa, format, stored) "matvec8-" #isa "-" #format "-" #stored
#define RAREFY_MATVEC_CALLS_floats(isa, format, stored) isa::multiply<Stored::stored, Format::format>, nullptr
#define RAREFY_MATVEC_CALLS_bytes(isa, format, stored) nullptr, isa::multiply8<Format::format>
#define RAREFY_MATVEC_DEFINE(isa, format, stored, activations)                                    \
  extern const Kernel RAREFY_MATVEC_ID(isa, format, stored, activations) = {                      \
      RAREFY_MATVEC_NAME_##activations(isa, format, stored), Isa::isa, Format::format, Stored::stored, \
      RAREFY_MATVEC_CALLS_##activations(isa, format, stored)};
