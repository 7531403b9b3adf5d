# Sourced after shell.sh: configure and build of one preset.

# build_preset PRESET [TARGET...]: configures build/PRESET if needed and builds TARGETs (default: everything).
build_preset() {
  local preset=$1
  shift
  (
    cd "$project" || exit 1
    if [ ! -f "build/$preset/build.ninja" ] || [ CMakePresets.json -nt "build/$preset/build.ninja" ]; then
      step "Configuring build/$preset" "build/log/$preset-configure.log" cmake --preset "$preset" || exit
    fi
    step "Building $preset" "build/log/$preset-build.log" ninja -C "build/$preset" -j "${GATEWAY_BUILD_JOBS:-$(nproc)}" "$@"
  )
}
