{{/* ---- Names ---------------------------------------------------------------------------------------------------- */}}

{{/* Start of all names. A PyTorchJob's name must be a DNS label, and so must those of its pods and Service. */}}
{{- define "medvl.fullname" -}}
{{- $name := .Values.fullnameOverride | default .Release.Name -}}
{{- if gt (len $name) 30 -}}
  {{- fail (printf "the release name %q has %d characters, and names of stages leave room for 30: take a shorter one, or set fullnameOverride" $name (len $name)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) -}}
  {{- fail (printf "the release name %q cannot start the name of a PyTorchJob: use small letters, digits and dashes, and a letter first, or set fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{/* The hash is that of the content, so a change is a new object: helm never patches what Kubernetes calls immutable. */}}
{{- define "medvl.planName" -}}
{{ include "medvl.fullname" . }}-plan-{{ include "medvl.planData" . | sha256sum | trunc 8 }}
{{- end }}

{{- define "medvl.coordinatorName" -}}
{{ include "medvl.fullname" . }}-coordinator-{{ include "medvl.coordinatorSpec" . | sha256sum | trunc 8 }}
{{- end }}

{{/* Name of the account of a role, "coordinator" or "worker". Takes root and role. */}}
{{- define "medvl.serviceAccountName" -}}
{{- (index .root.Values.serviceAccount .role).name | default (printf "%s-%s" (include "medvl.fullname" .root) .role) -}}
{{- end }}

{{- define "medvl.claimName" -}}
{{- .Values.modelCache.pvc.existingClaim | default (printf "%s-models" (include "medvl.fullname" .)) -}}
{{- end }}

{{/* Reference of an image: prep, train or eval. Takes root and image. */}}
{{- define "medvl.image" -}}
{{- $image := index .root.Values.images .image -}}
{{- with .root.Values.images.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* ---- Labels --------------------------------------------------------------------------------------------------- */}}

{{/* Labels that pods are selected by. Takes root and component. */}}
{{- define "medvl.selectorLabels" -}}
app.kubernetes.io/name: medvl
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Metadata of an object of the release. Takes root, component and name, and may take annotations and labels. */}}
{{- define "medvl.metadata" -}}
{{- $own := include "medvl.selectorLabels" . | fromYaml -}}
{{- $helm := dict
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
name: {{ .name | quote }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- merge $own $helm (default dict .labels) (default dict .root.Values.commonLabels) | toYaml | nindent 2 }}
{{- with merge (dict) (default dict .annotations) (default dict .root.Values.commonAnnotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Metadata of a stage, without the name and the labels that the coordinator adds. Takes root and stage. */}}
{{- define "medvl.stageMetadata" -}}
{{- $labels := include "medvl.selectorLabels" (dict "root" .root "component" .stage) | fromYaml -}}
{{- with .root.Values.queue.kueue }}
  {{- if .enabled }}{{ $_ := set $labels "kueue.x-k8s.io/queue-name" .localQueue }}{{ end }}
  {{- if and .enabled .priorityClass }}{{ $_ := set $labels "kueue.x-k8s.io/priority-class" .priorityClass }}{{ end }}
{{- end -}}
labels:
  {{- merge $labels (default dict .root.Values.commonLabels) | toYaml | nindent 2 }}
{{- with .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* ---- The model cache: words that are true when they are not empty ---------------------------------------------- */}}

{{- define "medvl.hasModelCache" -}}
{{- if or .Values.modelCache.fill (ne .Values.modelCache.type "emptyDir") }}yes{{ end -}}
{{- end }}

{{/* Whether a Job fills it once, before the first pod that needs it. Of a hostPath, every node has another one. */}}
{{- define "medvl.hasModelJob" -}}
{{- if and .Values.modelCache.fill (eq .Values.modelCache.type "pvc") }}yes{{ end -}}
{{- end }}

{{/* ---- Small tools ---------------------------------------------------------------------------------------------- */}}

{{/*
Maps over each other, the last on top: lists are appended, maps merged, and a single value replaced, by 0 as well.
A list inside a map is replaced too: appended, the terms of a required affinity would mean "or".
*/}}
{{- define "medvl.layers" -}}
{{- $result := dict -}}
{{- range $layer := . }}
  {{- range $key, $value := $layer }}
    {{- $below := index $result $key }}
    {{- if and $below (kindIs "slice" $value) }}{{ $value = concat $below $value }}{{ end }}
    {{- if and $below (kindIs "map" $value) }}{{ $value = mergeOverwrite (deepCopy $below) $value }}{{ end }}
    {{- $_ := set $result $key $value }}
  {{- end }}
{{- end }}
{{- toYaml $result }}
{{- end }}

{{/* A list of things with names, without those whose name comes again: server-side apply takes no variable twice. */}}
{{- define "medvl.lastOfEachName" -}}
{{- $seen := dict -}}
{{- $kept := list -}}
{{- range reverse . }}
  {{- if not (hasKey $seen .name) }}{{ $kept = prepend $kept . }}{{ end }}
  {{- $_ := set $seen .name true }}
{{- end }}
{{- toYaml $kept }}
{{- end }}

{{/* The optional numbers of a stage; 0 is one. */}}
{{- define "medvl.timeLimits" -}}
{{- $limits := dict -}}
{{- range $key := list "activeDeadlineSeconds" "ttlSecondsAfterFinished" }}
  {{- $seconds := index $ $key }}
  {{- if not (kindIs "invalid" $seconds) }}{{ $_ := set $limits $key (int64 $seconds) }}{{ end }}
{{- end }}
{{- with $limits }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* ---- What no schema can say ----------------------------------------------------------------------------------- */}}

{{- define "medvl.validate" -}}
{{- $cache := .Values.modelCache -}}
{{- if not .Values.storage.bucket -}}
  {{- fail "storage.bucket is not set: name the bucket that the run's results go to" -}}
{{- end -}}
{{- if and .Values.storage.caBundle.existingConfigMap .Values.storage.caBundle.existingSecret -}}
  {{- fail "storage.caBundle names a ConfigMap and a Secret: leave one of them empty" -}}
{{- end -}}
{{- if and .Values.queue.kueue.enabled (not .Values.queue.kueue.localQueue) -}}
  {{- fail "queue.kueue is enabled without a queue: set queue.kueue.localQueue to a LocalQueue of this namespace" -}}
{{- end -}}
{{- if and (eq $cache.type "hostPath") (not $cache.hostPath.path) -}}
  {{- fail "modelCache.type is hostPath without a path: set modelCache.hostPath.path to a directory of the GPU nodes" -}}
{{- end -}}
{{- if and (eq $cache.type "image") (not $cache.image.reference) -}}
  {{- fail "modelCache.type is image without an image: set modelCache.image.reference" -}}
{{- end -}}
{{- if and (eq $cache.type "image") (semverCompare "<1.33.0-0" .Capabilities.KubeVersion.Version) -}}
  {{- fail (printf "modelCache.type is image, and Kubernetes %s is too old for image volumes (1.33 and later): take another type" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- range $role, $account := .Values.serviceAccount -}}
  {{- if not (or $account.create $account.name) -}}
    {{- fail (printf "serviceAccount.%s is not created and has no name: set serviceAccount.%s.name to one that is there" $role $role) -}}
  {{- end -}}
{{- end -}}
{{- end }}
