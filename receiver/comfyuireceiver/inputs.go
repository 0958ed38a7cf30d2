// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"cmp"
	"io"
	"net/http"
	"net/http/httputil"
	"slices"

	"go.opentelemetry.io/otel/attribute"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/inputs"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// inputChecks judges the images that pass the proxy, for the prompts that name them.
type inputChecks struct {
	*inputs.Inspector
	classes map[string]InputCheckConfig
}

// newInputChecks makes the checks of the configuration; nil without any.
func (r *comfyuiReceiver) newInputChecks() *inputChecks {
	if len(r.cfg.InputChecks) == 0 {
		return nil
	}
	l := &r.cfg.Limits
	s := inputs.Settings{Images: l.Images, UploadBytes: l.ImageBytes, AllBytes: l.UploadBytes, Time: r.cfg.atLeast}
	for _, c := range r.cfg.InputChecks {
		s.Colour = s.Colour || c.MaxChroma > 0
	}
	return &inputChecks{inputs.NewInspector(s, r.following.instruments, r.now), r.cfg.InputChecks}
}

// stopInputs ends the checks.
func (a *admitter) stopInputs() {
	if a.inputs != nil {
		a.inputs.Close()
	}
}

// ImageJudged implements [inputs.Observer].
func (m *instruments) ImageJudged(unjudged string) {
	m.add("comfyui.input.images", 1, attribute.String("comfyui.input.result", cmp.Or(unjudged, "judged")))
}

// maxUploadAnswer bounds the answer to an upload that is read, in bytes.
const maxUploadAnswer = 64 << 10

// serveUpload relays an upload, and has its image judged once the server has stored it.
func (p *proxy) serveUpload(w http.ResponseWriter, r *http.Request) {
	copied := p.inputs.Copy(r)
	defer copied.Drop()
	r.Body = copied
	relay := p.relay
	relay.Rewrite = func(r *httputil.ProxyRequest) {
		p.rewrite(r)
		r.Out.Header.Del("Accept-Encoding") // the answer is read
	}
	relay.ModifyResponse = func(response *http.Response) error {
		if response.StatusCode != http.StatusOK {
			return nil
		}
		body, _ := io.ReadAll(io.LimitReader(response.Body, maxUploadAnswer)) // the body repeats its error to the client
		response.Body = restored{io.MultiReader(bytes.NewReader(body), response.Body), response.Body}
		stored := protocol.ParseUpload(body)
		copied.Stored(stored.Name, stored.Subfolder, stored.Folder)
		return nil
	}
	relay.ServeHTTP(w, r)
}

// maxChecked bounds the images of a prompt that are checked.
const maxChecked = 16

// namedImages are the images that a prompt's nodes load.
func namedImages(sub *protocol.Submission) (all []string) {
	for i := range sub.Nodes {
		n := &sub.Nodes[i]
		image := n.Inputs["image"]
		if (n.Class == "LoadImage" || n.Class == "LoadImageOutput") && image.IsText && len(all) < maxChecked {
			all = append(all, image.Value)
		}
	}
	return all
}

// checkInput checks the images of a prompt. It returns the refusal of one that its class rejects; nil
// if it is passed on.
func (p *proxy) checkInput(of *arrival) *prompt.Admission {
	if p.inputs == nil {
		return nil
	}
	class := of.sizing.TaskClass
	config, isChecked := p.inputs.classes[class]
	if !isChecked {
		return nil
	}
	checks := config.checks()
	var messages map[string]string
	of.input = &prompt.Input{}
	for _, name := range namedImages(&of.sub) {
		facts := p.inputs.Find(inputs.NameOfInput(name))
		found, unjudged := checks.Findings(&facts)
		of.input.Unjudged = cmp.Or(of.input.Unjudged, unjudged)
		if len(found) > 0 && messages == nil {
			messages = checks.Messages(found, &facts)
			of.input.Action, of.input.Width, of.input.Height = config.action(), facts.Width, facts.Height
			of.input.BytesPerPixel, of.input.Chroma = facts.BytesPerPixel(), facts.Chroma
		}
		for _, f := range found {
			if !slices.Contains(of.input.Findings, string(f)) {
				of.input.Findings = append(of.input.Findings, string(f))
			}
		}
	}
	p.inputChecked(of.input, class)
	if len(of.input.Findings) == 0 || of.input.Action != actionReject {
		return nil
	}
	return &prompt.Admission{
		Decision: admission.Decision{Verdict: admission.Reject, Reason: admission.Input, Class: class, Messages: messages},
		Enforced: true, Claimed: of.claimed,
	}
}

// inputChecked counts what was found about a prompt's images.
func (m *instruments) inputChecked(in *prompt.Input, class string) {
	task := attribute.String("comfyui.task_class", m.label(m.tasks, class, true))
	for _, finding := range in.Findings {
		m.add("comfyui.input.findings", 1, task, attribute.String("comfyui.input.finding", finding), attribute.String("comfyui.input.action", in.Action))
	}
	if in.Unjudged != "" {
		m.add("comfyui.input.unjudged", 1, task, attribute.String("comfyui.input.reason", in.Unjudged))
	}
}
