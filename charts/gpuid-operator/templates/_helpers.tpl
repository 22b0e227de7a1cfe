{{- define "gpuid-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "gpuid-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := include "gpuid-operator.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "gpuid-operator.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "gpuid-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "gpuid-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "gpuid-operator.readerSelectorLabels" -}}
app.kubernetes.io/name: {{ include "gpuid-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: reader
{{- end }}

{{/* Labels of objects that belong to no component. */}}
{{- define "gpuid-operator.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: gpuid-operator
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "gpuid-operator.labels" -}}
{{ include "gpuid-operator.selectorLabels" . }}
{{ include "gpuid-operator.commonLabels" . }}
{{- end }}

{{- define "gpuid-operator.readerLabels" -}}
{{ include "gpuid-operator.readerSelectorLabels" . }}
{{ include "gpuid-operator.commonLabels" . }}
{{- end }}

{{- define "gpuid-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "gpuid-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "gpuid-operator.image" -}}
{{- with default .Values.image.registry (.Values.global).imageRegistry }}{{ trimSuffix "/" . }}/{{ end }}{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end }}
{{- end }}

{{/* The pull secrets of a pod: those of a parent chart, as names or objects, and the chart's own. */}}
{{- define "gpuid-operator.imagePullSecrets" -}}
{{- $secrets := list }}
{{- range concat (default list (.Values.global).imagePullSecrets) .Values.imagePullSecrets }}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) }}
{{- end }}
{{- with uniq $secrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Those of the named fields of a pod that the values set. Its context is the values and the names. */}}
{{- define "gpuid-operator.podFields" -}}
{{- $values := first . }}
{{- range $name := rest . }}
{{- with get $values $name }}
{{ toYaml (dict $name .) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "gpuid-operator.leaseName" -}}
{{- default (include "gpuid-operator.fullname" .) .Values.leaderElection.name }}
{{- end }}

{{- define "gpuid-operator.leaseNamespace" -}}
{{- default (include "gpuid-operator.namespace" .) .Values.leaderElection.namespace }}
{{- end }}

{{/* The mode of the reader; older names of a mode stay valid. */}}
{{- define "gpuid-operator.readerMode" -}}
{{- $mode := .Values.reader.mode }}
{{- if and (eq $mode "runtimeClass") (eq .Values.reader.deviceList "volume-mounts") }}
{{- $mode = "volumeMounts" }}
{{- end }}
{{- get (dict "driverRoot" "hostDriver" "claim" "dra") $mode | default $mode }}
{{- end }}

{{- define "gpuid-operator.readerName" -}}
{{ include "gpuid-operator.fullname" . }}-reader
{{- end }}

{{- define "gpuid-operator.readerNamespace" -}}
{{- $dra := eq (include "gpuid-operator.readerMode" .) "dra" }}
{{- .Values.reader.namespace | default (ternary (include "gpuid-operator.readerName" .) (include "gpuid-operator.namespace" .) $dra) }}
{{- end }}

{{/* The target of the reader pods. */}}
{{- define "gpuid-operator.readerTarget" -}}
{{- $selector := list }}
{{- range $key, $value := include "gpuid-operator.readerSelectorLabels" . | fromYaml }}
{{- $selector = append $selector (printf "%s=%s" $key $value) }}
{{- end }}
namespace: {{ include "gpuid-operator.readerNamespace" . }}
selector: {{ join "," $selector }}
container: reader
{{- if eq (include "gpuid-operator.readerMode" .) "hostDriver" }}
command: [python3, -m, gpuid_operator.cli.host_smi, /host]
{{- end }}
{{- end }}

{{/* The list of targets as YAML, with the chart's own reader first. */}}
{{- define "gpuid-operator.targets" -}}
{{- $targets := list }}
{{- if .Values.reader.enabled }}
{{- $targets = append $targets (include "gpuid-operator.readerTarget" . | fromYaml) }}
{{- end }}
{{- range .Values.targets }}
{{- if and (eq (default "" .preset) "reader") (not .namespace) }}
{{- $targets = append $targets (dict "preset" "reader" "namespace" (include "gpuid-operator.namespace" $)) }}
{{- else }}
{{- $targets = append $targets . }}
{{- end }}
{{- end }}
{{- if not $targets }}
{{- fail "targets is empty, so there is nowhere to read from: add a target, or set reader.enabled" }}
{{- end }}
{{- toYaml $targets }}
{{- end }}

{{/* The namespaces in which the operator needs rights on pods, as a YAML list in the order of the
     targets. docs/presets.md says which default namespaces of a preset count. */}}
{{- define "gpuid-operator.targetNamespaces" -}}
{{- $table := .Files.Get "files/presets.yaml" | fromYaml }}
{{- $visible := lookup "v1" "Namespace" "" "kube-system" }}
{{- $found := list }}
{{- if .Values.runner.command }}
{{- $found = list (include "gpuid-operator.runnerTarget" . | fromYaml).namespace }}
{{- else }}
{{- range $target := include "gpuid-operator.targets" . | fromYamlArray }}
{{- if $target.namespace }}
{{- $found = append $found $target.namespace }}
{{- else }}
{{- $auto := eq $target.preset "auto" }}
{{- $names := ternary $table.order (list $target.preset) $auto }}
{{- if not $visible }}
{{- $found = append $found (first (first (get $table.presets (first $names))).namespaces) }}
{{- else }}
{{- range $name := $names }}
{{- range $pods := get $table.presets $name }}
{{- range $namespace := $pods.namespaces }}
{{- if lookup "v1" "Namespace" "" $namespace }}
{{- if not (and $auto (has $namespace $table.shared)) }}
{{- $found = append $found $namespace }}
{{- else }}
{{- $label := splitList "=" $pods.label }}
{{- range (lookup "apps/v1" "DaemonSet" $namespace "").items }}
{{- if eq (default "" (get (default dict .spec.template.metadata.labels) (first $label))) (last $label) }}
{{- $found = append $found $namespace }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml (uniq $found) }}
{{- end }}

{{/* The one target of a check runner. The default targets stand for the GPU Operator's device plugin. */}}
{{- define "gpuid-operator.runnerTarget" -}}
{{- $target := first .Values.targets }}
{{- if eq (default "" $target.preset) "auto" }}
{{- $target = dict "namespace" (default "gpu-operator" $target.namespace) "selector" "app=nvidia-device-plugin-daemonset" "container" "nvidia-device-plugin" }}
{{- end }}
{{- toYaml $target }}
{{- end }}

{{/* "true" where an object of the Prometheus operator is wanted and can be created, else nothing. Its
     context is the root, the kind and the values of that object. */}}
{{- define "gpuid-operator.renders" -}}
{{- $apis := (index . 0).Capabilities.APIVersions }}
{{- $kind := index . 1 }}
{{- $values := index . 2 }}
{{- /* Every API server has the first API, and `helm template` has it only from --api-versions. */}}
{{- $missing := and ($apis.Has "apiregistration.k8s.io/v1") (not ($apis.Has (printf "monitoring.coreos.com/v1/%s" $kind))) }}
{{- if $values.enabled }}
{{- if and $missing (eq $values.renderMode "failIfMissing") }}
{{- fail (printf "this cluster does not serve the kind %s of monitoring.coreos.com/v1: install the Prometheus operator first, or set %s.renderMode to skipIfMissing" $kind (untitle $kind)) }}
{{- end }}
{{- if or (not $missing) (eq $values.renderMode "alwaysRender") }}true{{ end }}
{{- end }}
{{- end }}

{{/* The namespace in which restarts by checks can delete pods; empty without restarts. */}}
{{- define "gpuid-operator.restartNamespace" -}}
{{- if or .Values.runner.forceRestart (and .Values.checks.enabled .Values.checks.restarts) }}
{{- first (include "gpuid-operator.targetNamespaces" . | fromYamlArray) }}
{{- end }}
{{- end }}

{{/* Rejects combinations of values that a schema cannot reject. */}}
{{- define "gpuid-operator.validate" -}}
{{- if and (gt (int .Values.replicaCount) 1) (not .Values.leaderElection.enabled) }}
{{- fail "replicaCount above 1 needs leaderElection.enabled: otherwise every pod reads and writes" }}
{{- end }}
{{- if and .Values.checks.restarts (not .Values.checks.enabled) }}
{{- fail "checks.restarts needs checks.enabled: otherwise no check of a policy runs" }}
{{- end }}
{{- if and .Values.runner.forceRestart (not .Values.runner.command) }}
{{- fail "runner.forceRestart needs runner.command: otherwise there is no check that can fail" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled }}
{{- fail "serviceMonitor.enabled and podMonitor.enabled together scrape every pod twice: enable one of them" }}
{{- end }}
{{- if and (ne (get .Values.podDisruptionBudget "minAvailable" | toString) "") (ne (get .Values.podDisruptionBudget "maxUnavailable" | toString) "") }}
{{- fail "podDisruptionBudget takes minAvailable or maxUnavailable: set one of them" }}
{{- end }}
{{- if .Values.runner.command }}
{{- if or .Values.reader.enabled (ne (len .Values.targets) 1) }}
{{- fail "runner.command runs in one target: set exactly one in targets, and disable reader.enabled" }}
{{- end }}
{{- if not (include "gpuid-operator.runnerTarget" . | fromYaml).container }}
{{- fail "runner.command needs the pods and the container of its target: set targets[0].container, without a preset" }}
{{- end }}
{{- end }}
{{- if .Values.reader.enabled }}
{{- $mode := include "gpuid-operator.readerMode" . }}
{{- if and (eq .Values.reader.deviceList "volume-mounts") (ne $mode "volumeMounts") }}
{{- fail (printf "reader.deviceList: volume-mounts is the older name of reader.mode: volumeMounts, and reader.mode is %s: remove reader.deviceList" $mode) }}
{{- end }}
{{- if and (eq $mode "dra") (not (.Capabilities.APIVersions.Has "resource.k8s.io/v1")) }}
{{- fail "reader.mode dra needs the API resource.k8s.io/v1 (Kubernetes 1.34 or newer), which this cluster does not serve: use another mode, or call helm template with --api-versions resource.k8s.io/v1" }}
{{- end }}
{{- if and (eq $mode "dra") .Values.reader.dra.createNamespace (eq (include "gpuid-operator.readerNamespace" .) (include "gpuid-operator.namespace" .)) }}
{{- fail "reader.mode dra needs a namespace of its own, since every claim there may have admin access: set reader.namespace to another one than the operator's, or label that namespace and set reader.dra.createNamespace to false" }}
{{- end }}
{{- end }}
{{- if and .Values.checks.admission.enabled (not .Values.checks.admission.users) (not .Values.checks.admission.groups) }}
{{- fail "checks.admission.enabled needs users or groups that can write checks: set checks.admission.users or checks.admission.groups" }}
{{- end }}
{{- if and .Values.quarantine.admission.enabled (not .Values.quarantine.admission.users) (not .Values.quarantine.admission.groups) }}
{{- fail "quarantine.admission.enabled needs users or groups that can write quarantines with action Taint: set quarantine.admission.users or quarantine.admission.groups" }}
{{- end }}
{{- end }}
