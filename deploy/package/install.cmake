# What `cmake --install` puts where, by component, and the Debian packages that CPack builds from the components
# (tools/package). Units, the default configuration and the Dockerfiles use the same paths:
#   /usr/bin  /etc/gateway/gateway.yaml  /var/lib/gateway (database)  /var/cache/gateway (data planes' caches)
if(CMAKE_INSTALL_PREFIX_INITIALIZED_TO_DEFAULT)  # not /usr/local: the units name /usr/bin
  set_property(CACHE CMAKE_INSTALL_PREFIX PROPERTY VALUE /usr)
endif()
include(GNUInstallDirs)
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)  # installed targets are built before; tests need not be
set(package_dir ${CMAKE_SOURCE_DIR}/deploy/package)
set(generated_dir ${CMAKE_BINARY_DIR}/packages)

install(FILES ${CMAKE_SOURCE_DIR}/deploy/gateway.yaml DESTINATION /etc/gateway COMPONENT common)
install(FILES ${CMAKE_SOURCE_DIR}/deploy/gateway-mtls.yaml
  DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/gateway-common/examples COMPONENT common)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/deploy/policies ${CMAKE_SOURCE_DIR}/deploy/prometheus
  DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/gateway-common/examples COMPONENT common)

install(TARGETS gateway-controlplane RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT controlplane)
install(FILES ${CMAKE_SOURCE_DIR}/deploy/systemd/gateway-controlplane.service DESTINATION lib/systemd/system
  COMPONENT controlplane)
install(TARGETS gateway-dataplane RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT dataplane)
install(FILES ${CMAKE_SOURCE_DIR}/deploy/systemd/gateway-dataplane@.service
  ${CMAKE_SOURCE_DIR}/deploy/systemd/gateway-dataplane@.socket DESTINATION lib/systemd/system COMPONENT dataplane)
install(TARGETS gatewayctl RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT gatewayctl)

# Manual pages and completions that tools/package generates from the programs' output. Left out if they are missing.
install(FILES ${generated_dir}/gateway-controlplane.8.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man8
  COMPONENT controlplane OPTIONAL)
install(FILES ${generated_dir}/gateway-dataplane.8.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man8
  COMPONENT dataplane OPTIONAL)
install(FILES ${generated_dir}/gatewayctl.1.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT gatewayctl OPTIONAL)
install(FILES ${generated_dir}/gatewayctl.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
  RENAME gatewayctl COMPONENT gatewayctl OPTIONAL)
install(FILES ${generated_dir}/gatewayctl.zsh DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions
  RENAME _gatewayctl COMPONENT gatewayctl OPTIONAL)
install(FILES ${generated_dir}/gatewayctl.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d
  COMPONENT gatewayctl OPTIONAL)
foreach(component common controlplane dataplane)
  install(FILES ${package_dir}/copyright ${generated_dir}/changelog.gz
    DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/gateway-${component} COMPONENT ${component} OPTIONAL)
endforeach()
install(FILES ${package_dir}/copyright ${generated_dir}/changelog.gz
  DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/gatewayctl COMPONENT gatewayctl OPTIONAL)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_VENDOR "Gateway maintainers")
set(CPACK_PACKAGE_CONTACT "Gateway maintainers <maintainers@users.noreply.r-seed-17b6505d.example>")
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}/packages)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
  WORLD_READ WORLD_EXECUTE)
set(CPACK_COMPONENTS_ALL common controlplane dataplane gatewayctl)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_SOURCE gateway)

# PACKAGE COMPONENT "short description" "long description": packages with linked programs compute their dependencies.
function(debian_package component name summary description)
  string(TOUPPER ${component} key)
  set(CPACK_DEBIAN_${key}_PACKAGE_NAME ${name} PARENT_SCOPE)
  set(CPACK_COMPONENT_${key}_DESCRIPTION "${summary}\n${description}" PARENT_SCOPE)
  set(CPACK_DEBIAN_${key}_DESCRIPTION "${summary}\n${description}" PARENT_SCOPE)
  file(GLOB scripts ${package_dir}/${component}/*)
  set(CPACK_DEBIAN_${key}_PACKAGE_CONTROL_EXTRA "${scripts}" PARENT_SCOPE)
  if(NOT component STREQUAL "common")
    set(CPACK_DEBIAN_${key}_PACKAGE_SHLIBDEPS ON PARENT_SCOPE)
  endif()
endfunction()
debian_package(common gateway-common "API gateway for Consul-based fleets: configuration"
  "The user, the directories and the default configuration that the control plane\nand the data planes of the gateway share, with sample policies and alert rules.")
debian_package(controlplane gateway-controlplane "API gateway for Consul-based fleets: control plane"
  "Keeps the policy of the gateway in a database, follows Consul, and streams both\nto the data planes.")
debian_package(dataplane gateway-dataplane "API gateway for Consul-based fleets: proxy"
  "Forwards HTTP requests to the services of a fleet as the policy of its control\nplane says: routes, limits, authentication, retries, breakers.")
debian_package(gatewayctl gatewayctl "API gateway for Consul-based fleets: command line"
  "Applies, compares and rolls back the policy of the gateway, and shows what its\ndata planes do.")
set(CPACK_DEBIAN_COMMON_PACKAGE_ARCHITECTURE all)
set(CPACK_DEBIAN_COMMON_PACKAGE_DEPENDS adduser)
foreach(key CONTROLPLANE DATAPLANE)
  set(CPACK_DEBIAN_${key}_PACKAGE_DEPENDS "gateway-common (>= ${PROJECT_VERSION}), init-system-helpers (>= 1.54)")
endforeach()
set(CPACK_DEBIAN_CONTROLPLANE_PACKAGE_RECOMMENDS gatewayctl)
include(CPack)
