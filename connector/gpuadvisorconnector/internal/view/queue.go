// SPDX-License-Identifier: Apache-2.0

package view

import "time"

// Server is a ComfyUI server.
type Server struct {
	// Name is host:port of the server.
	Name string   `json:"name"`
	IsUp bool     `json:"up"`
	GPUs []string `json:"gpus"`
	// Running and Waiting count prompts, with those that did not come through the proxy.
	Running int `json:"running"`
	Waiting int `json:"waiting"`
	// OldestWait is how long the oldest prompt has waited.
	OldestWait float64 `json:"oldest_wait"`
	// Prompts are those that run or wait, in the order of the queue: the first of those that came
	// through the proxy. Listed is how many of them /v1/queue has.
	Prompts []OpenPrompt `json:"prompts"`
	Listed  int          `json:"listed"`
	// Sockets are the clients' sockets that are worth a look: silent, or kept without a client.
	Sockets []Socket `json:"sockets"`
	// SocketsOpen counts all.
	SocketsOpen int `json:"sockets_open"`
}

// OpenPrompt is a prompt that has not ended.
type OpenPrompt struct {
	ID        string `json:"id"`
	Workflow  string `json:"workflow"`
	TaskClass string `json:"task_class,omitempty"`
	Side      int64  `json:"side,omitempty"`
	// State is running or waiting.
	State string `json:"state"`
	// Ahead is how many prompts run or wait before it.
	Ahead int `json:"ahead"`
	// Since is when it began to wait, or to run.
	Since time.Time `json:"since"`
	Node  *Node     `json:"node"`
	// Starts is when it is likely to start, by the medians of those ahead of it.
	Starts *time.Time `json:"starts"`
	// Text is its place in the queue, or its progress, as a sentence: it is next if all that are
	// ahead run, else the text has Ahead.
	Text string `json:"text"`
}

// OpenDetail is the answer of /v1/prompts/{id} for a prompt that has not ended.
type OpenDetail struct {
	OpenPrompt
	// Server is the ComfyUI server that it runs on or waits for.
	Server string `json:"server"`
}

// Node is the node that runs.
type Node struct {
	ID    string `json:"id"`
	Class string `json:"class"`
	// Number counts the nodes that have begun, Of those of the workflow.
	Number int `json:"number"`
	Of     int `json:"of"`
	// Step of Steps; 0 of 0 where the node reports none.
	Step  int `json:"step"`
	Steps int `json:"steps"`
}

// Socket is a client's socket. It has no name: client ids are private.
type Socket struct {
	// State is silent (nothing came through for a while although its prompt runs) or kept (its
	// client has left).
	State string    `json:"state"`
	Since time.Time `json:"since"`
	Text  string    `json:"text"`
}
