// SPDX-License-Identifier: Apache-2.0

package page

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// allows reports whether a request names a host that is this server's. A page elsewhere
// whose name was changed to resolve to this machine (DNS rebinding) names its own host.
func (s *Settings) allows(r *http.Request) bool {
	host := hostOf(r.Host)
	if isLoopback(host) {
		return true
	}
	if slices.ContainsFunc(s.AllowedHosts, func(allowed string) bool { return hostOf(allowed) == host }) {
		return true
	}
	endpoint := hostOf(s.Endpoint)
	if ip, err := netip.ParseAddr(endpoint); endpoint == "" || err == nil && ip.IsUnspecified() {
		// The server listens on every address: the one that this connection came to is its own.
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		return s.Endpoint != "" && local != nil && hostOf(local.String()) == host
	}
	return endpoint == host
}

// isLoopback reports whether a host is this machine by any name that it always has.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// hostOf is the host of host:port, in lower case and without a zone or brackets.
func hostOf(address string) string {
	host := address
	if h, _, err := net.SplitHostPort(address); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().WithZone("").String()
	}
	return host
}

// printable quotes what a client sent, and shortens it.
func printable(text string) string {
	if len(text) > 100 {
		text = text[:100]
	}
	return strconv.QuoteToASCII(text)
}
