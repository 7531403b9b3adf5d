// Found before protobuf's own map_field.h by the tsan preset. Compiled with the sanitizer that header gives every map
// two members more, which Debian's libprotobuf, compiled without it, knows nothing of: reflection then reads a map's
// lists where they are not. So it is read here as libprotobuf read it; what it includes itself is included as ever.
#pragma once
#include <atomic>
#include <functional>

#include "google/protobuf/arena.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/generated_message_reflection.h"
#include "google/protobuf/generated_message_util.h"
#include "google/protobuf/map_entry.h"
#include "google/protobuf/map_field_lite.h"
#include "google/protobuf/map_type_handler.h"
#include "google/protobuf/message.h"
#include "google/protobuf/port.h"
#include "google/protobuf/repeated_field.h"
#include "google/protobuf/stubs/mutex.h"
#include "google/protobuf/unknown_field_set.h"

#pragma push_macro("__SANITIZE_THREAD__")
#undef __SANITIZE_THREAD__
#include_next <google/protobuf/map_field.h>
#pragma pop_macro("__SANITIZE_THREAD__")
