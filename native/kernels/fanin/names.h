// How a line of fanin.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_FANIN_ID(isa, stored) isa##_##stored
#define RAREFY_FANIN_DEFINE(isa, stored)                                                                  \
  extern const Kernel RAREFY_FANIN_ID(isa, stored) = {"fanin-" #isa "-" #stored, Isa::isa, Stored::stored, \
                                                      isa::width, isa::one<Stored::stored>, isa::some<Stored::stored>};
