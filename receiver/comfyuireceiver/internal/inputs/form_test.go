// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const formType = `multipart/form-data; boundary=bb`

// form joins lines as a form has them.
func form(lines ...string) []byte { return []byte(strings.Join(lines, "\r\n")) }

func TestAFormsImageIsFound(t *testing.T) {
	const disposition = `Content-Disposition: form-data; name="image"; filename="a.png"`
	for name, of := range map[string]struct {
		contentType string
		form        []byte
		want        string
		none        bool
	}{
		"alone":                    {formType, form("--bb", disposition, "", "pixels", "--bb--", ""), "pixels", false},
		"after others":             {formType, form("--bb", `Content-Disposition: form-data; name="type"`, "", "input", "--bb", "content-type: image/png", disposition, "", "pix\r\nels", "--bb--"), "pix\r\nels", false},
		"before others":            {formType, form("--bb", disposition, "", "1", "--bb", disposition, "", "2", "--bb--", ""), "1", false},
		"a preamble":               {formType, form("preamble", "--bb", disposition, "", "pixels", "--bb--", ""), "pixels", false},
		"padding":                  {formType, form("--bb \t", disposition, "", "pixels", "--bb \t", `X: y`, "", "", "--bb--"), "pixels", false},
		"a delimiter's begin":      {formType, form("--bb", disposition, "", "a", "--bbb", "--b", "--bb--", ""), "a\r\n--bbb\r\n--b", false},
		"quoted boundary":          {`multipart/form-data; boundary="bb"`, form("--bb", disposition, "", "pixels", "--bb--", ""), "pixels", false},
		"empty":                    {formType, form("--bb", disposition, "", "", "--bb--", ""), "", false},
		"no image":                 {formType, form("--bb", `Content-Disposition: form-data; name="type"`, "", "input", "--bb--", ""), "", true},
		"not ended":                {formType, form("--bb", disposition, "", "pixels"), "", true},
		"encoded":                  {formType, form("--bb", disposition, "Content-Transfer-Encoding: base64", "", "AAAA", "--bb--", ""), "", true},
		"a header that is not one": {formType, form("--bb", "x", "", "pixels", "--bb--", ""), "", true},
		"a long header":            {formType, form("--bb", "x: "+strings.Repeat("y", maxPartHeader), disposition, "", "pixels", "--bb--", ""), "", true},
		"another type":             {"application/json", form("--bb", disposition, "", "pixels", "--bb--", ""), "", true},
		"no boundary":              {"multipart/form-data", form("--bb", disposition, "", "pixels", "--bb--", ""), "", true},
		"a long boundary":          {"multipart/form-data; boundary=" + strings.Repeat("b", 71), form("--" + strings.Repeat("b", 71)), "", true},
		"nothing":                  {formType, nil, "", true},
		"many parts":               {formType, bytes.Repeat(form("--bb", "X: y", "", "", ""), maxParts+1), "", true},
	} {
		t.Run(name, func(t *testing.T) {
			got := imageOf(of.contentType, of.form)
			assert.Equal(t, of.none, got == nil)
			assert.Equal(t, of.want, string(got))
		})
	}
}

// FuzzForm compares with the standard library's reader, which copies.
func FuzzForm(f *testing.F) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	require.NoError(f, w.SetBoundary("bb"))
	require.NoError(f, w.WriteField("overwrite", "true"))
	part, err := w.CreateFormFile("image", "a.png")
	require.NoError(f, err)
	_, err = part.Write([]byte("\x89PNG\r\n\x1a\n"))
	require.NoError(f, err)
	require.NoError(f, w.Close())
	f.Add(formType, b.Bytes())
	f.Add(formType, form("--bb", "", "x", "--bb", `Content-Disposition: form-data; name=image`, "", "--bbx", "--bb--"))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		got := imageOf(contentType, body)
		if got == nil {
			return
		}
		_, parameters, err := mime.ParseMediaType(contentType)
		if err != nil {
			t.Fatal(err)
		}
		r := multipart.NewReader(bytes.NewReader(body), parameters["boundary"])
		for {
			part, err := r.NextRawPart()
			if err != nil {
				return // the standard library is stricter about lines that end without CR, and about headers
			}
			content, err := io.ReadAll(part)
			if part.FormName() != imageField {
				continue
			}
			if err == nil && !bytes.Equal(content, got) {
				t.Fatalf("%q, not %q", got, content)
			}
			return
		}
	})
}

func TestNamesAreThoseOfTheServer(t *testing.T) {
	stored := nameOf("a.png", "", "input")
	require.NotEmpty(t, stored)
	for _, same := range []string{"a.png", "a.png [input]", "./a.png"} {
		assert.Equal(t, stored, NameOfInput(same), same)
	}
	assert.Equal(t, nameOf("a.png", "", ""), stored)
	assert.Equal(t, nameOf("a.png", "sub/x", "output"), NameOfInput("sub/x/a.png [output]"))
	assert.Equal(t, nameOf("a.png", "", "temp"), NameOfInput("a.png [temp]"))
	assert.NotEqual(t, nameOf("a.png", "", "temp"), stored)
	assert.NotEqual(t, nameOf("a.png", "sub", "input"), stored)
	assert.Empty(t, nameOf("", "sub", "input"))
	assert.Empty(t, nameOf(strings.Repeat("a", maxName), "", "input"))
	assert.Empty(t, NameOfInput(""))
	assert.NotEmpty(t, NameOfInput("[input]"))
}
