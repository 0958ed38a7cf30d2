// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"bufio"
	"bytes"
	"mime"
	"net/textproto"
	"path"
	"strings"
)

const (
	// imageField is the form's field with the image (POST /upload/image of ComfyUI's server.py).
	imageField = "image"
	// maxParts bounds the parts of a form that are searched, maxPartHeader the header of each, in
	// bytes, and maxBoundary what separates them (RFC 2046, section 5.1.1).
	maxParts      = 64
	maxPartHeader = 16 << 10
	maxBoundary   = 70
)

// imageOf finds the file of an upload, without a copy of it: in the first part of a form
// (multipart/form-data, RFC 7578) that is named image. It is nil if there is none.
func imageOf(contentType string, form []byte) []byte {
	mediaType, parameters, err := mime.ParseMediaType(contentType)
	boundary := parameters["boundary"]
	if err != nil || mediaType != "multipart/form-data" || boundary == "" || len(boundary) > maxBoundary {
		return nil
	}
	delimiter := []byte("\r\n--" + boundary)
	rest, found := afterDelimiter(form, delimiter[len("\r\n"):])
	if !found {
		if _, rest, found = cut(form, delimiter); !found {
			return nil
		}
	}
	for range maxParts {
		_, part, _ := bytes.Cut(rest, []byte("\r\n")) // nothing after the last delimiter, "--"
		header, content, ok := partOf(part)
		if !ok {
			return nil
		}
		content, rest, found = cut(content, delimiter)
		if !found {
			return nil
		}
		_, disposition, err := mime.ParseMediaType(header.Get("Content-Disposition"))
		if err == nil && disposition["name"] == imageField {
			if header.Get("Content-Transfer-Encoding") != "" {
				return nil
			}
			return content
		}
	}
	return nil
}

// cut divides a form at the first delimiter.
func cut(form, delimiter []byte) (before, after []byte, found bool) {
	for at := 0; ; {
		i := bytes.Index(form[at:], delimiter)
		if i < 0 {
			return nil, nil, false
		}
		if after, found := afterDelimiter(form[at+i:], delimiter); found {
			return form[:at+i], after, true
		}
		at += i + len(delimiter)
	}
}

// afterDelimiter is what follows a delimiter with which a form begins. What separates parts may also
// begin a longer line of a part's content.
func afterDelimiter(form, delimiter []byte) (after []byte, found bool) {
	after, found = bytes.CutPrefix(form, delimiter)
	rest := bytes.TrimLeft(after, " \t")
	return after, found && (bytes.HasPrefix(after, []byte("--")) || bytes.HasPrefix(rest, []byte("\r\n")))
}

// partOf divides a part into its header and what follows.
func partOf(part []byte) (header textproto.MIMEHeader, rest []byte, ok bool) {
	if rest, isEmpty := bytes.CutPrefix(part, []byte("\r\n")); isEmpty {
		return nil, rest, true
	}
	end := bytes.Index(part[:min(len(part), maxPartHeader)], []byte("\r\n\r\n"))
	if end < 0 {
		return nil, nil, false
	}
	header, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(part[:end+len("\r\n\r\n")]))).ReadMIMEHeader()
	if err != nil {
		return nil, nil, false
	}
	return header, part[end+len("\r\n\r\n"):], true
}

// maxName bounds the names of images that are remembered, in bytes.
const maxName = 1024

// nameOf identifies a stored image by what the server's answer says of it; empty if it is not valid.
func nameOf(name, subfolder, folder string) string {
	if name == "" || len(name)+len(subfolder)+len(folder) > maxName {
		return ""
	}
	if folder == "" {
		folder = defaultFolder
	}
	return folder + ":" + path.Join(subfolder, name)
}

// defaultFolder is where LoadImage reads from unless the name ends with another in brackets.
const defaultFolder = "input"

// NameOfInput identifies the image that a node's input names, as ComfyUI reads it: "sub/name.png" or
// "name.png [output]" (annotated_filepath of its folder_paths.py).
func NameOfInput(value string) string {
	for _, folder := range []string{"output", defaultFolder, "temp"} {
		if name, ok := strings.CutSuffix(value, "["+folder+"]"); ok && len(name) > 0 {
			return nameOf(name[:len(name)-1], "", folder) // and the space before
		}
	}
	return nameOf(value, "", defaultFolder)
}
