// The precompiled header of all folders of the data plane hangs on this file (CMakeLists.txt).
