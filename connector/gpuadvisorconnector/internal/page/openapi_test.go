// SPDX-License-Identifier: Apache-2.0

package page

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission/overhttp"
)

var update = flag.Bool("update", false, "write openapi.json again")

// object is a JSON object.
type object = map[string]any

// comments reads the comments of package view: by Type and by Type.Field.
func comments(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	names, err := filepath.Glob("../view/*.go")
	require.NoError(t, err)
	for _, name := range append(names, "../../../../internal/admission/overhttp/types.go") {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		require.NoError(t, err)
		for _, d := range file.Decls {
			if general, ok := d.(*ast.GenDecl); ok && general.Tok == token.TYPE {
				commentsOf(general, all)
			}
		}
	}
	return all
}

func commentsOf(general *ast.GenDecl, all map[string]string) {
	line := func(text string) string { return strings.Join(strings.Fields(text), " ") }
	for _, spec := range general.Specs {
		s := spec.(*ast.TypeSpec)
		all[s.Name.Name] = line(general.Doc.Text())
		fields, ok := s.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range fields.Fields.List {
			for _, name := range f.Names {
				all[s.Name.Name+"."+name.Name] = line(f.Doc.Text())
			}
		}
	}
}

// schemas collects the schemas of the types of package view.
type schemas struct {
	comments map[string]string
	all      object
}

// of is the schema of a type, or the reference to it.
func (s *schemas) of(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[view.Severity]():
		return object{"type": "string", "enum": []any{"fine", "warning", "broken"}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return nullable(s.of(t.Elem()))
	case reflect.Slice:
		return nullable(object{"type": "array", "items": s.of(t.Elem())})
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return object{"type": "integer"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Struct:
		if s.all[t.Name()] == nil {
			s.all[t.Name()] = object{} // the types may refer to each other
			s.all[t.Name()] = s.structure(t)
		}
		return object{"$ref": "#/components/schemas/" + t.Name()}
	}
	panic(t.String())
}

func nullable(schema object) object {
	if kind, ok := schema["type"].(string); ok {
		schema["type"] = []any{kind, "null"}
		return schema
	}
	return object{"oneOf": []any{schema, object{"type": "null"}}}
}

func (s *schemas) structure(t reflect.Type) object {
	properties, required := object{}, []any{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			inner := s.structure(f.Type)
			maps.Copy(properties, inner["properties"].(object))
			required = append(required, inner["required"].([]any)...)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		property := s.of(f.Type)
		if c := s.comments[t.Name()+"."+f.Name]; c != "" {
			property["description"] = c
		}
		properties[name] = property
		if options == "" {
			required = append(required, name)
		}
	}
	schema := object{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
	if c := s.comments[t.Name()]; c != "" {
		schema["description"] = c
	}
	return schema
}

func parameter(name, place, description string, schema object) object {
	return object{"name": name, "in": place, "required": place == "path", "description": description, "schema": schema}
}

func response(description, schema string) object {
	return object{"description": description, "content": object{"application/json": object{"schema": object{"$ref": "#/components/schemas/" + schema}}}}
}

// describe makes the whole document.
func describe(t *testing.T) object {
	t.Helper()
	s := &schemas{comments(t), object{}}
	for _, kind := range []reflect.Type{reflect.TypeFor[view.State](), reflect.TypeFor[view.Prompts](), reflect.TypeFor[view.Detail](), reflect.TypeFor[view.OpenDetail](), reflect.TypeFor[view.History](), reflect.TypeFor[overhttp.Advice](), reflect.TypeFor[overhttp.AdviceList](), reflect.TypeFor[overhttp.AdviceRequest](), reflect.TypeFor[overhttp.Settlement](), reflect.TypeFor[view.Recommendations]()} {
		s.of(kind)
	}
	// A change has the fields of a state that differ; lists with keys are maps.
	properties := object{}
	for name, property := range s.all["State"].(object)["properties"].(object) {
		properties[name] = property
	}
	keys := object{"type": "array", "items": object{"type": "string"}}
	for list, item := range map[string]string{"gpu": "GPU", "server": "Server", "prompt": "Prompt"} {
		properties[list+"s"] = object{"type": "object", "additionalProperties": object{"$ref": "#/components/schemas/" + item}, "description": "Those that changed, by id or name."}
		properties[list+"_order"] = keys
	}
	s.all["Change"] = object{"type": "object", "properties": properties, "required": []any{"time"}, "additionalProperties": false, "description": "What changed since the last event: the fields of State that differ, and the order of lists if that differs."}
	s.all["Problem"] = object{"type": "object", "properties": object{"error": object{"type": "string"}}, "required": []any{"error"}, "additionalProperties": false}
	s.all["Texts"] = object{"type": "object", "additionalProperties": object{"oneOf": []any{object{"type": "string"}, object{"type": "object", "properties": object{"one": object{"type": "string"}, "other": object{"type": "string"}}, "required": []any{"one", "other"}, "additionalProperties": false}}}}
	s.all["Trace"] = object{"type": "object", "properties": object{"resourceSpans": object{"type": "array"}}, "required": []any{"resourceSpans"}}
	text, lang := object{"type": "string"}, parameter("lang", "query", "The language: en or zh; else that of Accept-Language.", object{"type": "string"})
	id := parameter("id", "path", "The prompt's id.", text)
	get := func(summary, schema string, isKnown bool, parameters ...any) object {
		responses := object{"200": response("The answer.", schema), "403": object{"description": "The request names a foreign host."}}
		if isKnown {
			responses["404"] = response("It is not known.", "Problem")
		}
		return object{"get": object{"summary": summary, "parameters": append([]any{lang}, parameters...), "responses": responses}}
	}
	prompts := get("Prompts that ended.", "Prompts", false,
		parameter("id", "query", "The whole id: the prompt is in open while it has not ended.", text), parameter("q", "query", "Part of the id, the workflow or the model.", text), parameter("outcome", "query", "comfyui.prompt.outcome, or failed: error and lost.", text), parameter("workflow", "query", "The whole name of a workflow.", text),
		parameter("slow", "query", "Only prompts that took at least 1.5 times their usual time.", object{"type": "boolean"}), parameter("sort", "query", "The order.", object{"type": "string", "enum": []any{"newest", "slowest"}}),
		parameter("limit", "query", "The number of prompts.", object{"type": "integer", "minimum": 1, "maximum": maxLimit, "default": defaultLimit}))
	prompts["get"].(object)["responses"].(object)["400"] = response("The query is not valid.", "Problem")
	prompt := get("A prompt that ended (Detail), or runs or waits (OpenDetail).", "Detail", true, id)
	prompt["get"].(object)["responses"].(object)["200"] = object{"description": "The answer.", "content": object{"application/json": object{"schema": object{"oneOf": []any{object{"$ref": "#/components/schemas/Detail"}, object{"$ref": "#/components/schemas/OpenDetail"}}}}}}
	whole := object{"type": "integer", "minimum": 0, "maximum": maxSize}
	advice := get("Whether a prompt should run.", "Advice", false,
		parameter("server", "query", "The service.instance.id of the server; without it, and without gpu, any server of the collector.", text), parameter("gpu", "query", "The hw.id of the server's GPU.", text),
		parameter("task_class", "query", "The task class.", text), parameter("workflow", "query", "The workflow.", text), parameter("model", "query", "The model.", text),
		parameter("width", "query", "The image's width in pixels.", whole), parameter("height", "query", "The image's height in pixels.", whole), parameter("batch", "query", "The number of images.", whole),
		parameter("steps", "query", "The number of steps.", whole), parameter("deadline_s", "query", "For how many seconds from now on the image is of use.", object{"type": "number", "minimum": 0, "maximum": maxDeadline}))
	advice["get"].(object)["responses"].(object)["400"] = response("The query is not valid.", "Problem")
	advice["post"] = object{
		"summary": "Whether prompts should run, each by itself.", "parameters": []any{lang},
		"requestBody": object{"required": true, "content": object{"application/json": object{"schema": object{"type": "object", "required": []any{"requests"}, "additionalProperties": false, "properties": object{"requests": object{"type": "array", "maxItems": maxAdviceRequests, "items": object{"$ref": "#/components/schemas/AdviceRequest"}}}}}}},
		"responses":   object{"200": response("The answers.", "AdviceList"), "400": response("The body is not valid.", "Problem"), "403": object{"description": "The request names a foreign host."}, "408": response("The body did not arrive in time.", "Problem"), "413": response("The body is too large.", "Problem")},
	}
	return object{
		"openapi": "3.1.0",
		"info":    object{"title": "gpuadvisor", "version": "1", "description": "What the live page shows. Times are RFC 3339 in UTC, durations seconds, memory bytes, energy joules, power watts, temperatures degrees Celsius, shares and utilisation 0 to 1. null is not known."},
		"paths": object{
			"/v1/state":              get("What is true now.", "State", false),
			"/v1/prompts":            prompts,
			"/v1/prompts/{id}":       prompt,
			"/v1/prompts/{id}/trace": get("A prompt's spans as OTLP JSON.", "Trace", true, id),
			"/v1/queue":              get("A ComfyUI server with its whole queue.", "Server", true, parameter("server", "query", "The server's name: host:port.", text)),
			"/v1/history":            get("Half an hour of a GPU's samples.", "History", true, parameter("gpu", "query", "The GPU's hw.id or name.", text)),
			"/v1/texts":              get("The page's texts.", "Texts", false),
			"/v1/events": object{"get": object{"summary": "Server-sent events: state (State) on connecting, then change (Change); version and beat besides.", "parameters": []any{lang},
				"responses": object{"200": object{"description": "The stream.", "content": object{"text/event-stream": object{}}}, "503": response("As many viewers as limits::viewers allows are connected.", "Problem")}}},
			"/v1/advice": advice,
			"/v1/advice/claims/{claim}": object{"post": object{"summary": "End a claim: the server accepted the prompt, or it will not run it.", "parameters": []any{parameter("claim", "path", "The claim.", object{"type": "integer", "minimum": 1, "maximum": 1<<53 - 1})},
				"requestBody": object{"required": true, "content": object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Settlement"}}}},
				"responses":   object{"204": object{"description": "It has ended."}, "400": response("The claim or the body is not valid.", "Problem"), "403": response("Claims are not allowed, or another origin asks.", "Problem"), "408": response("The body did not arrive in time.", "Problem")}}},
			"/v1/recommendations": get("What the requests of the last seven days say: what is short, and which sizes to allow.", "Recommendations", false),
			"/v1/rush": object{"post": object{"summary": "Start a rush of simulated users, on simulated GPUs, for a page of this server.",
				"responses": object{"202": object{"description": "The rush has started."}, "403": response("The request comes from another origin.", "Problem"), "404": response("The GPUs are real.", "Problem"), "503": response("The rush did not start.", "Problem")}}},
		},
		"components": object{"schemas": s.all},
	}
}

func TestTheOpenAPIDocumentIsCurrent(t *testing.T) {
	want, err := json.MarshalIndent(describe(t), "", " ")
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile("openapi.json", append(want, '\n'), 0o600))
		return
	}
	assert.JSONEq(t, string(want), string(openAPIDocument), "run make generate")
}

// validate lists where a value differs from a schema.
func validate(document, schema object, value any, at string) (problems []string) {
	if reference, ok := schema["$ref"].(string); ok {
		all := document["components"].(object)["schemas"].(object)
		target, ok := all[strings.TrimPrefix(reference, "#/components/schemas/")].(object)
		if !ok {
			return []string{at + ": no schema " + reference}
		}
		return validate(document, target, value, at)
	}
	if choices, ok := schema["oneOf"].([]any); ok {
		for _, choice := range choices {
			if found := validate(document, choice.(object), value, at); len(found) == 0 {
				return nil
			} else {
				problems = append(problems, found...)
			}
		}
		return problems
	}
	kinds, ok := schema["type"].([]any)
	if !ok {
		kinds = []any{schema["type"]}
	}
	kind := kindOf(value)
	if !slices.Contains(kinds, any(kind)) && (kind != "integer" || !slices.Contains(kinds, any("number"))) {
		return []string{fmt.Sprintf("%s: %s instead of %v", at, kind, kinds)}
	}
	switch v := value.(type) {
	case string:
		if values, ok := schema["enum"].([]any); ok && !slices.Contains(values, any(v)) {
			problems = append(problems, at+": "+v)
		}
		if _, err := time.Parse(time.RFC3339Nano, v); schema["format"] == "date-time" && err != nil {
			problems = append(problems, at+": "+v)
		}
	case []any:
		for i, item := range v {
			if items, ok := schema["items"].(object); ok {
				problems = append(problems, validate(document, items, item, fmt.Sprint(at, "[", i, "]"))...)
			}
		}
	case object:
		properties, _ := schema["properties"].(object)
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				problems = append(problems, fmt.Sprint(at, ".", name, " is missing"))
			}
		}
		for name, item := range v {
			switch more := schema["additionalProperties"].(type) {
			case object:
				if properties[name] == nil {
					problems = append(problems, validate(document, more, item, at+"."+name)...)
					continue
				}
			case bool:
				if !more && properties[name] == nil {
					problems = append(problems, at+"."+name+" is not described")
				}
			}
			if property, ok := properties[name].(object); ok {
				problems = append(problems, validate(document, property, item, at+"."+name)...)
			}
		}
	}
	return problems
}

func kindOf(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	}
	return "object"
}

func TestTheAnswersAreAsTheOpenAPIDocumentDescribes(t *testing.T) {
	s := serve(t, Settings{Advisor: &asked{}, Recommender: someWeek{}})
	s.source.set(func(now *view.State) { fill(reflect.ValueOf(now).Elem(), 0) })
	_, text := s.request(t, "GET", "/v1/openapi.json")
	var document object
	require.NoError(t, json.Unmarshal([]byte(text), &document))
	addresses := map[string]string{
		"/v1/advice": "/v1/advice?width=1280", "/v1/state": "/v1/state", "/v1/prompts": "/v1/prompts?q=x", "/v1/queue": "/v1/queue?server=127.0.0.1:8188", "/v1/prompts/{id}": "/v1/prompts/p1", "/v1/prompts/{id}/trace": "/v1/prompts/p1/trace", "/v1/history": "/v1/history?gpu=gpu0", "/v1/texts": "/v1/texts", "/v1/recommendations": "/v1/recommendations",
	}
	unknown := map[string]string{"/v1/prompts/{id}": "/v1/prompts/p2", "/v1/prompts/{id}/trace": "/v1/prompts/p2/trace", "/v1/history": "/v1/history", "/v1/queue": "/v1/queue?server=x"}
	check := func(path, method, address string) {
		response, body := s.request(t, method, address)
		operation := document["paths"].(object)[path].(object)[strings.ToLower(method)].(object)
		described, ok := operation["responses"].(object)[fmt.Sprint(response.StatusCode)].(object)
		require.True(t, ok, "%s answers %d", address, response.StatusCode)
		var value any
		require.NoError(t, json.Unmarshal([]byte(body), &value))
		schema := described["content"].(object)["application/json"].(object)["schema"].(object)
		assert.Empty(t, validate(document, schema, value, path))
	}
	for path, address := range addresses {
		check(path, "GET", address)
	}
	for path, address := range unknown {
		check(path, "GET", address)
	}
	check("/v1/prompts", "GET", "/v1/prompts?limit=0")
	check("/v1/prompts/{id}", "GET", "/v1/prompts/p3") // it waits
	check("/v1/rush", "POST", "/v1/rush")
	check("/v1/advice", "GET", "/v1/advice?width=x")
	check("/v1/advice", "POST", "/v1/advice")
	check("/v1/advice/claims/{claim}", "POST", "/v1/advice/claims/7") // claims are not allowed
	schema := func(name string) object { return object{"$ref": "#/components/schemas/" + name} }
	var value any
	r := s.watch(t, "")
	require.NoError(t, json.Unmarshal([]byte(r.until("state").data), &value))
	assert.Empty(t, validate(document, schema("State"), value, "state"))
	s.source.set(func(now *view.State) { *now = someState() })
	require.NoError(t, json.Unmarshal([]byte(r.until("change").data), &value))
	assert.Empty(t, validate(document, schema("Change"), value, "change"))
	assert.Greater(t, len(value.(object)), 8)
	for path := range document["paths"].(object) {
		_, isAsked := addresses[path]
		assert.True(t, isAsked || path == "/v1/events" || path == "/v1/rush" || path == "/v1/advice/claims/{claim}", "%s is not held against its answer", path)
	}
}

// fill sets every field of a value, so that each is in the answer.
func fill(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.String:
		v.SetString("x")
		if v.Type() == reflect.TypeFor[view.Severity]() {
			v.SetString("broken")
		}
	case reflect.Bool:
		v.SetBool(v.Type().Kind() == reflect.Bool && depth > 1)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Float64:
		v.SetFloat(1.5)
	default:
	}
}

func TestTheValidatorFindsEachDifference(t *testing.T) {
	document := describe(t)
	schema := object{"$ref": "#/components/schemas/Part"}
	right := object{"kind": "work", "text": "worked", "seconds": 1.5}
	require.Empty(t, validate(document, schema, right, "part"))
	for _, change := range []object{{"kind": 1.0}, {"seconds": "1"}, {"more": true}, {"text": nil}} {
		wrong := maps.Clone(right)
		maps.Copy(wrong, change)
		assert.NotEmpty(t, validate(document, schema, wrong, "part"), "%v", change)
	}
	delete(right, "seconds")
	assert.NotEmpty(t, validate(document, schema, right, "part"))
}
