// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import "strings"

// routes are the values of http.route: ComfyUI's own routes, without the prefix /api that
// most of them may have. A segment in braces stands for any one, a last one with dots for
// any number. Every other path is other, since those of custom nodes may hold file names.
var routes = []string{
	"/", "/ws", "/prompt", "/queue", "/interrupt", "/free", "/history", "/history/{prompt_id}",
	"/jobs", "/jobs/cancel", "/jobs/{job_id}", "/jobs/{job_id}/cancel",
	"/view", "/view_metadata/{folder}", "/upload/image", "/upload/mask", "/system_stats", "/features", "/node_replacements",
	"/object_info", "/object_info/{node_class}", "/embeddings", "/extensions", "/extensions/{path...}", "/models", "/models/{folder}",
	"/experiment/models", "/experiment/models/{path...}", "/users", "/userdata", "/v2/userdata", "/userdata/{file}",
	"/userdata/{file}/move/{dest}", "/settings", "/settings/{id}", "/i18n", "/global_subgraphs", "/global_subgraphs/{id}",
	"/workflow_templates", "/workflow_templates/{path...}", "/templates/{path...}", "/docs/{path...}", "/assets", "/assets/{path...}", "/tags",
	"/internal/logs", "/internal/logs/raw", "/internal/logs/subscribe", "/internal/folder_paths", "/internal/files/{directory}",
	"/scripts/{path...}", "/fonts/{path...}", "/lib/{path...}", "/cursor/{path...}",
}

// routeTree finds a path's route by its segments.
type routeTree struct {
	route string // of the path that ends here
	next  map[string]*routeTree
	each  *routeTree // any one segment
	rest  string     // the route of any number of segments
}

var routesBySegment = newRouteTree(routes)

func newRouteTree(routes []string) *routeTree {
	root := &routeTree{}
	for _, route := range routes {
		at := root
		for segment := range strings.SplitSeq(strings.Trim(route, "/"), "/") {
			if strings.HasSuffix(segment, "...}") {
				at.rest = route
				continue
			}
			at = at.child(segment)
		}
		at.route = route
	}
	return root
}

func (t *routeTree) child(segment string) *routeTree {
	if strings.HasPrefix(segment, "{") {
		if t.each == nil {
			t.each = &routeTree{}
		}
		return t.each
	}
	if t.next == nil {
		t.next = map[string]*routeTree{}
	}
	if t.next[segment] == nil {
		t.next[segment] = &routeTree{}
	}
	return t.next[segment]
}

// route is the http.route of a path.
func route(path string) string {
	if trimmed, isAPI := strings.CutPrefix(path, "/api/"); isAPI {
		path = trimmed
	}
	at := routesBySegment
	for segment := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		next := at.next[segment]
		switch {
		case next != nil:
		case segment != "" && at.each != nil:
			next = at.each
		case at.rest != "":
			return at.rest
		default:
			return other
		}
		at = next
	}
	if at.route == "" {
		return other
	}
	return at.route
}
