{{- define "gpuid-operator.secretEnv" -}}
{{- $ref := .ref }}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ required (printf "%s needs the name of a Secret" .value) $ref.name }}
      key: {{ required (printf "%s needs a key of that Secret" .value) $ref.key }}
{{- end }}

{{/* The environment variables that gpuid_operator/operator/settings.py reads. */}}
{{- define "gpuid-operator.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- if .Values.runner.command }}
{{- with include "gpuid-operator.runnerTarget" . | fromYaml }}
- name: NAMESPACE
  value: {{ .namespace | quote }}
- name: LABEL_SELECTOR
  value: {{ .selector | quote }}
- name: CONTAINER
  value: {{ .container | quote }}
{{- end }}
- name: COMMAND
  {{- /* Kubernetes expands $(NAME), and replaces $$ with $. */}}
  value: {{ .Values.runner.command | replace "$" "$$" | quote }}
- name: CHECK_NAME
  value: {{ .Values.runner.checkName | quote }}
- name: FORCE_RESTART
  value: {{ .Values.runner.forceRestart | quote }}
{{- else }}
- name: TARGETS
  value: |
    {{- include "gpuid-operator.targets" . | nindent 4 }}
{{- end }}
{{- with .Values.clusterName }}
- name: CLUSTER_NAME
  value: {{ . | quote }}
{{- end }}
- name: WORKERS
  value: {{ .Values.workers | quote }}
- name: TIMEOUT
  value: {{ .Values.timeout | quote }}
- name: RESYNC
  value: {{ .Values.readInterval | quote }}
- name: SIGHTING_INTERVAL
  value: {{ .Values.sightingInterval | quote }}
- name: QPS
  value: {{ .Values.qps | quote }}
- name: BURST
  value: {{ .Values.burst | quote }}
- name: SUSPEND
  value: {{ .Values.suspend | quote }}
- name: LOG_LEVEL
  value: {{ .Values.log.level | quote }}
- name: LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: SERVER_PORT
  value: {{ .Values.port | quote }}
- name: LEADER_ELECTION
  value: {{ .Values.leaderElection.enabled | quote }}
{{- if .Values.leaderElection.enabled }}
- name: LEASE_NAMESPACE
  value: {{ include "gpuid-operator.leaseNamespace" . | quote }}
- name: LEASE_NAME
  value: {{ include "gpuid-operator.leaseName" . | quote }}
- name: LEASE_DURATION
  value: {{ .Values.leaderElection.duration | quote }}
- name: LEASE_RENEW_DEADLINE
  value: {{ .Values.leaderElection.renewDeadline | quote }}
- name: LEASE_RETRY_PERIOD
  value: {{ .Values.leaderElection.retryPeriod | quote }}
{{- end }}
- name: POLICY_CHECKS
  value: {{ .Values.checks.enabled | quote }}
- name: RESTARTS_PER_HOUR
  value: {{ ternary .Values.checks.restartsPerHour 0 (or .Values.checks.restarts .Values.runner.forceRestart) | quote }}
- name: QUARANTINE_TAINTS
  value: {{ .Values.quarantine.taints.enabled | quote }}
- name: QUARANTINE_MAX_NODES
  value: {{ .Values.quarantine.taints.maxNodes | toString | quote }}
- name: EXPORTER_TYPE
  value: {{ .Values.exporter.type | quote }}
{{- include (printf "gpuid-operator.env.%s" .Values.exporter.type) .Values.exporter }}
{{- end }}

{{- define "gpuid-operator.env.stdout" -}}
{{- end }}

{{- define "gpuid-operator.env.http" }}
- name: HTTP_ENDPOINT
  value: {{ required "exporter.type http needs exporter.http.endpoint" .http.endpoint | quote }}
- name: HTTP_TIMEOUT
  value: {{ .http.timeout | quote }}
{{- with .http.tokenSecretRef }}
{{- include "gpuid-operator.secretEnv" (dict "name" "HTTP_AUTH_TOKEN" "value" "exporter.http.tokenSecretRef" "ref" .) }}
{{- end }}
{{- end }}

{{- define "gpuid-operator.env.postgres" }}
- name: POSTGRES_HOST
  value: {{ required "exporter.type postgres needs exporter.postgres.host" .postgres.host | quote }}
- name: POSTGRES_PORT
  value: {{ .postgres.port | quote }}
- name: POSTGRES_DB
  value: {{ required "exporter.type postgres needs exporter.postgres.database" .postgres.database | quote }}
- name: POSTGRES_SSLMODE
  value: {{ .postgres.sslMode | quote }}
- name: POSTGRES_TABLE
  value: {{ .postgres.table | quote }}
- name: POSTGRES_AUTO_MIGRATE
  value: {{ .postgres.autoMigrate | quote }}
{{- include "gpuid-operator.secretEnv" (dict "name" "POSTGRES_USER" "value" "exporter.postgres.userSecretRef" "ref" .postgres.userSecretRef) }}
{{- include "gpuid-operator.secretEnv" (dict "name" "POSTGRES_PASSWORD" "value" "exporter.postgres.passwordSecretRef" "ref" .postgres.passwordSecretRef) }}
{{- end }}

{{- define "gpuid-operator.env.s3" }}
- name: S3_BUCKET
  value: {{ required "exporter.type s3 needs exporter.s3.bucket" .s3.bucket | quote }}
- name: S3_PREFIX
  value: {{ .s3.prefix | quote }}
- name: S3_REGION
  value: {{ .s3.region | quote }}
- name: S3_PARTITION_PATTERN
  value: {{ .s3.partition | quote }}
{{- with .s3.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with .s3.credentialsSecret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" "AWS_SESSION_TOKEN" }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $.s3.credentialsSecret }}
      key: {{ . }}
      optional: {{ eq . "AWS_SESSION_TOKEN" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The port of the exporter's server; empty without one. Its context is .Values.exporter. */}}
{{- define "gpuid-operator.exporterPort" -}}
{{- if eq .type "postgres" }}
{{- .postgres.port }}
{{- else if ne .type "stdout" }}
{{- $url := urlParse (ternary .http.endpoint (default "https://" .s3.endpoint) (eq .type "http")) }}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "80" "443" (eq $url.scheme "http")) }}
{{- end }}
{{- end }}
