// How a line of winograd.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_WINOGRAD_ID(isa, outputs, taps) isa##_f##outputs##x##taps
#define RAREFY_WINOGRAD_NAME(isa, outputs, taps) "winograd-" #isa "-f" #outputs "x" #taps
